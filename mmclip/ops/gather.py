"""All-gather over ranks with an exact gradient."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        gathered = local.new_empty((world_size() * local.shape[0], *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on this rank's rows: their gradient is the sum over ranks of that slice.
        (gradient,) = gradients
        local = gradient.new_empty((gradient.shape[0] // world_size(), *gradient.shape[1:]))
        dist.reduce_scatter_tensor(local, gradient.contiguous())
        return local


def gather(local: Float[Tensor, "batch embed"]) -> Float[Tensor, "global_batch embed"]:
    """The rows of all ranks in rank order; the gradient of every rank's loss flows back to the rank that owns the row.

    All ranks must hold equally many rows.
    """
    return local if world_size() == 1 else _AllGather.apply(local)  # pyright: ignore[reportReturnType]
