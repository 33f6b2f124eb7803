"""Tiles of a matrix of logits that never exists as a whole, and the sums that run over them."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

CPU_BYTES = 2**21
"""Of the tile and its working copy on a CPU: both stay in the cache of a core, where passes over them cost next to nothing."""
DEVICE_BYTES = 2**29
"""The same elsewhere: large products, and half a gibibyte at most."""


def tile_size(dtype: torch.dtype, device: torch.device, wanted: int | None = None) -> int:
    """Rows and columns of a tile: `wanted`, else the power of two that fits the budget twice."""
    if wanted is not None:
        return wanted
    budget = CPU_BYTES if device.type == "cpu" else DEVICE_BYTES
    return 1 << int(math.log2(math.isqrt(budget // (2 * dtype.itemsize))))


def blocks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of `size`; the last one may be shorter."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """What losses are accumulated in: fp64 where any input has it, else fp32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """At a scale of 100 a logit in bf16 is off by up to a quarter."""
    return torch.autocast(device.type, enabled=False)


class Workspace:
    """Buffers of one tile each, used again for every tile: fresh memory costs more than a pass over it."""

    def __init__(self, like: Float[Tensor, "_ _"], rows: int, columns: int, count: int) -> None:
        self.buffers = [like.new_empty(rows * columns) for _ in range(count)]

    def tiles(self, rows: slice, columns: slice) -> list[Float[Tensor, "row column"]]:
        """The buffers as contiguous tiles, whose content is what the last tile left."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return [buffer[: height * width].view(height, width) for buffer in self.buffers]


class OnlineSum:
    """Maximum and sum of exponentials, over the tiles of a row (`dim` 1) or of a column (`dim` 0).

    The maximum moves as tiles come (Milakov and Gimelshein 2018): one that is fixed beforehand underflows in single
    precision at a scale of 100 as soon as a row's best cosine is below .13.
    """

    def __init__(self, like: Float[Tensor, "_ _"], length: int, dim: int) -> None:
        # Finite, so that a tile without any valid entry gives exp(-inf) = 0 and not a NaN.
        self.max = like.new_full((length,), torch.finfo(like.dtype).min)
        self.sum = like.new_zeros(length)
        self.dim = dim

    def update(self, logits: Float[Tensor, "row column"], part: slice, work: Float[Tensor, "row column"]) -> Tensor:
        """Take in a tile; returns the factor by which sums so far were scaled. `work` keeps the exponentials."""
        greatest = torch.maximum(self.max[part], logits.amax(self.dim))
        factor = (self.max[part] - greatest).exp_()
        torch.sub(logits, greatest.unsqueeze(self.dim), out=work).exp_()
        self.sum[part] = self.sum[part] * factor + work.sum(self.dim)
        self.max[part] = greatest
        return factor
