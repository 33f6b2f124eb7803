"""Memory for the pixels of batches, used again and again: fresh pages for each batch cost as much as filling them."""

import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from mmclip_data.loading.scratch import fresh

Views = tuple[UInt8[Tensor, "batch 3 _ _"], ...]
Shape = tuple[int, int, int, int]
"""Batch, height, width, 3: decoders write channels last, and convolutions like it so."""


@runtime_checkable
class SlotSource(Protocol):
    """Where a batch gets the memory for its views from."""

    def take(self) -> Views:
        """Memory that nothing else refers to, with any content."""
        ...


def leased(array: NDArray[np.uint8], give_back: Callable[[], object]) -> UInt8[Tensor, "batch 3 _ _"]:
    """A tensor over `array` [batch, height, width, 3]; `give_back` runs when no tensor or array refers to it any more.

    The tensor's storage holds the array that it was made from, and so does whatever is derived from the tensor: the
    array's end is the end of all of them, whichever goes last.
    """
    lease = array.view()
    weakref.finalize(lease, give_back).atexit = False
    return torch.from_numpy(lease).permute(0, 3, 1, 2)


class Slots:
    """Slots of this process. There is always one more: whoever keeps batches keeps their memory, and nobody waits for him.

    Where CUDA is in use they are page-locked and belong to torch's caching allocator, which knows when a copy to the
    device is over; a slot of our own could be filled again while it is still read.
    """

    def __init__(self, shapes: Sequence[Shape], keep: int, pinned: bool = False) -> None:
        self.shapes = tuple(shapes)
        self.pinned = pinned
        self._free: tuple[deque[NDArray[np.uint8]], ...] = tuple(deque(maxlen=keep) for _ in self.shapes)

    def take(self) -> Views:
        return tuple(self._view(shape, free) for shape, free in zip(self.shapes, self._free, strict=True))

    def _view(self, shape: Shape, free: deque[NDArray[np.uint8]]) -> UInt8[Tensor, "batch 3 _ _"]:
        if self.pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).permute(0, 3, 1, 2)
        try:  # a deque's ends are safe between threads, and the end of a tensor may come in any of them
            array = free.pop()
        except IndexError:
            array = fresh(math.prod(shape)).reshape(shape)
        return leased(array, lambda: free.append(array))
