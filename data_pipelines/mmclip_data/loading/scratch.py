"""Memory of one thread for what lives shorter than a sample: fresh pages cost more than what is written to them."""

import math
import mmap
import threading

import numpy as np
from numpy.typing import NDArray

_thread = threading.local()


class Scratch:
    """Named pieces of memory; a piece is valid until the next one of that name is taken."""

    def __init__(self) -> None:
        self._pieces: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array with any content."""
        size = math.prod(shape)
        piece = self._pieces.get(name)
        if piece is None or len(piece) < size:
            piece = self._pieces[name] = fresh(size)
        return piece[:size].reshape(shape)


def of_thread() -> Scratch:
    """The scratch of the calling thread."""
    if not hasattr(_thread, "scratch"):
        _thread.scratch = Scratch()
    return _thread.scratch


def fresh(size: int) -> NDArray[np.uint8]:
    """Anonymous memory, in large pages where the system has them."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)[:size]
