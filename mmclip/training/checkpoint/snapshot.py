"""A snapshot of a checkpoint's files in memory that another process can read: all that a training loop waits for.

The files stand in it as they will on disk, each at a multiple of a page, in the format of safetensors
(https://huggingface.co/docs/safetensors): a length, a JSON table of names, types, shapes and places, and the raw rows.
The memory is anonymous and is used again for each snapshot.
"""

import json
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmclip.training.checkpoint.files import BytesFile, File, TensorFile

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
PIECE_BYTES, MOST_THREADS = 16 << 20, 8
"""Of the copy: more threads than a few only wait for the memory."""
Bytes: TypeAlias = NDArray[np.uint8]
Piece: TypeAlias = tuple[Bytes, Bytes]
ALIGNMENT = 8
"""Of the rows within a file: readers map them into memory and need no copy."""


@dataclass(frozen=True)
class Placed:
    """Where a file stands in the memory."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Row:
    tensor: Tensor
    begin: int


@dataclass(frozen=True)
class _Laid:
    """A file's head and where each tensor comes behind it."""

    path: str
    head: bytes
    rows: Sequence[_Row]
    size: int


class Memory:
    """Anonymous memory behind a file descriptor, which a child process inherits; it grows and is never given back."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self.descriptor = os.memfd_create("mmclip-snapshot")
        else:
            self.descriptor, path = tempfile.mkstemp(prefix="mmclip-snapshot-")
            os.unlink(path)
        self._map: mmap.mmap | None = None
        self._bytes: Tensor | None = None
        self._pinned = False
        self._touching: threading.Thread | None = None

    def reserve(self, size: int) -> None:
        """Make room beside what the process does next: pages that nobody has touched cost the first snapshot its time."""
        room = self._of_size(size, pin=False).numpy()

        def touch() -> None:
            room[:] = 0  # numpy gives the interpreter free meanwhile

        self._touching = threading.Thread(target=touch, name="mmclip-snapshot", daemon=True)
        self._touching.start()

    def take(self, files: Sequence[File]) -> list[Placed]:
        """Copy all files in, in place of those of the last snapshot."""
        laid = [_lay(file) for file in files]
        placed: list[Placed] = []
        end = 0
        for file in laid:
            placed.append(Placed(file.path, end, file.size))
            end += -(-file.size // mmap.PAGESIZE) * mmap.PAGESIZE
        devices = {row.tensor.device for file in laid for row in file.rows}
        memory = self._of_size(max(end, mmap.PAGESIZE), pin=any(device.type == "cuda" for device in devices))
        pieces: list[Piece] = []
        for file, place in zip(laid, placed, strict=True):
            memory[place.offset : place.offset + len(file.head)] = torch.frombuffer(
                bytearray(file.head), dtype=torch.uint8
            )
            for row in file.rows:
                begin = place.offset + row.begin
                into = memory[begin : begin + row.tensor.nbytes]
                if row.tensor.device.type == "cpu" and row.tensor.is_contiguous():
                    pieces += _pieces(into.numpy(), row.tensor.reshape(-1).view(torch.uint8).numpy())
                else:
                    shaped = into.view(row.tensor.dtype).view(row.tensor.shape)
                    shaped.copy_(row.tensor, non_blocking=row.tensor.is_cuda)
        _copy_all(pieces)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return placed

    def close(self) -> None:
        """Let the memory go; what a snapshot holds is lost for processes that have not opened it."""
        self._join()
        self._release()
        os.close(self.descriptor)

    def _of_size(self, size: int, pin: bool) -> Tensor:
        self._join()
        if self._bytes is None or self._bytes.numel() < size:
            self._release()
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
            self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        if pin and not self._pinned:  # a page-locked copy runs at the bus's speed, another one at a third of it
            runtime: Any = torch.cuda.cudart()
            code = runtime.cudaHostRegister(self._bytes.data_ptr(), self._bytes.numel(), 0)
            self._pinned = int(code) == 0  # where the system locks no more pages the copy is slower, no worse
        return self._bytes

    def _join(self) -> None:
        if self._touching is not None:
            self._touching.join()
            self._touching = None

    def _release(self) -> None:
        if self._pinned and self._bytes is not None:
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self._bytes.data_ptr())
            self._pinned = False
        self._bytes = None
        if self._map is not None:
            self._map.close()
            self._map = None


def _pieces(into: Bytes, source: Bytes) -> list[Piece]:
    return [
        (into[begin : begin + PIECE_BYTES], source[begin : begin + PIECE_BYTES])
        for begin in range(0, len(source), PIECE_BYTES)
    ]


def _copy_all(pieces: Sequence[Piece]) -> None:
    """On all cores, however few threads the steps have: these wait. numpy gives the interpreter free meanwhile."""
    cores = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(cores) as pool:
        for copied in [pool.submit(np.copyto, into, source) for into, source in pieces]:
            copied.result()


def _lay(file: File) -> _Laid:
    if isinstance(file, BytesFile):
        return _Laid(file.path, file.content, (), len(file.content))
    return _lay_tensors(file)


def _lay_tensors(file: TensorFile) -> _Laid:
    """Wide types first, so that every row is aligned; then by name, so that equal tensors give equal files."""
    order = sorted(file.tensors.items(), key=lambda named: (-named[1].element_size(), named[0]))
    table: dict[str, Any] = {}
    ends: dict[str, int] = {}
    end = 0
    for name, tensor in order:
        begin, end = end, end + tensor.nbytes
        table[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        ends[name] = begin
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    head = len(text).to_bytes(8, "little") + text
    rows = [_Row(tensor.detach(), len(head) + ends[name]) for name, tensor in order]
    return _Laid(file.path, head, rows, len(head) + end)
