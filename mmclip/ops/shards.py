"""Rows of a tensor over the ranks that share it, as FSDP2 lays them: rank r holds the r-th chunk of dimension 0.

A tensor of a sharded module is torch's `DTensor`, which knows the whole shape and holds the local rows. Every function takes a
plain tensor too, for which the whole is what is there.
"""

from typing import Any

from jaxtyping import Shaped
from torch import Tensor


def rows_each(rows: int, ranks: int) -> int:
    """Rows of each rank, as `torch.chunk` counts them; the last ranks hold fewer, or none."""
    return -(-rows // ranks)


def rows_of(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """First row of a rank, and the one behind its last."""
    each = rows_each(rows, ranks)
    return min(rank * each, rows), min((rank + 1) * each, rows)


def is_sharded(tensor: Tensor) -> bool:
    """Whether only some of its rows are here."""
    return hasattr(tensor, "to_local")  # `DTensor` itself takes a second to import


def local(tensor: Shaped[Tensor, "*row"]) -> Shaped[Tensor, "*local"]:
    """The rows that are here; they share the tensor's memory."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Shaped[Tensor, "*row"]) -> Shaped[Tensor, "*all_rows"]:
    """All rows. A collective where the tensor is sharded: every rank must ask for it."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def place(tensor: Tensor) -> tuple[int, int]:
    """This rank's place among those that share a sharded tensor, and how many they are; replicas have the same places."""
    mesh: Any = getattr(tensor, "device_mesh")  # noqa: B009 - of a DTensor, which is not imported here
    return mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """Which rows of the whole are here."""
    return rows_of(tensor.shape[0], *place(tensor)) if is_sharded(tensor) else (0, tensor.shape[0])
