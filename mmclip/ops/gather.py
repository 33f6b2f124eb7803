"""Exchange of rows between ranks, and an all-gather with an exact gradient.

Every function is the identity where there is one rank. All ranks must hold equally many rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather(local: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "global_batch ..."]:
    """The rows of all ranks in rank order, without a gradient."""
    if world_size() == 1:
        return local
    gathered = local.new_empty((world_size() * local.shape[0], *local.shape[1:]))
    _named("all_gather_single", "all_gather_into_tensor")(gathered, local.contiguous())
    return gathered


def reduce_scatter(everywhere: Float[Tensor, "global_batch ..."]) -> Float[Tensor, "batch ..."]:
    """The sum over ranks, of which each rank gets its own slice of rows."""
    if world_size() == 1:
        return everywhere
    local = everywhere.new_empty((everywhere.shape[0] // world_size(), *everywhere.shape[1:]))
    _named("reduce_scatter_single", "reduce_scatter_tensor")(local, everywhere.contiguous())
    return local


def all_sum(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over ranks, on every rank; not for the gradient of a parameter, which the training step averages."""
    return _all_reduce(values, "SUM")


def all_max(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The elementwise maximum over ranks, on every rank."""
    return _all_reduce(values, "MAX")


def _all_reduce(values: Tensor, operation: str) -> Tensor:
    if world_size() == 1:
        return values
    reduced = values.clone()
    dist.all_reduce(reduced, getattr(dist.ReduceOp, operation))
    return reduced


def _named(name: str, former: str) -> Callable[..., Any]:
    """Version 2.13 of torch has new names for two collectives and warns of the former ones, which older versions have alone."""
    return getattr(dist, name, None) or getattr(dist, former)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return all_gather(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on this rank's rows: their gradient is the sum over ranks of that slice.
        (gradient,) = gradients
        return reduce_scatter(gradient)


def gather(local: Float[Tensor, "batch embed"]) -> Float[Tensor, "global_batch embed"]:
    """The rows of all ranks in rank order; the gradient of every rank's loss flows back to the rank that owns the row.

    All ranks must hold equally many rows.
    """
    return local if world_size() == 1 else _AllGather.apply(local)  # pyright: ignore[reportReturnType]
