"""Norms between the layers of a head."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.ops.moments import joined_moments
from mmclip.ops.tiles import compute_dtype, without_autocast

Norm = Literal["none", "layer", "batch"]
"""`batch` is that of the rows of all ranks, with its exact gradient; a row alone decides the others."""


class JoinedBatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) over the rows of all ranks that keeps no running statistics.

    A head never meets a batch that it is not trained on, and nothing may change in an objective's forward.
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Rows whose every column has mean 0 and variance 1 over all ranks, before scale and shift.

        Raises:
            UserError: there is one row in all, whose columns would all be 0.
        """
        with without_autocast(rows.device):
            values = rows.to(compute_dtype(rows))
            mean, variance, count = joined_moments(values, [0])
            if count < 2:
                raise UserError(
                    "norm='batch' in a head: expected a global batch of at least 2, got 1; use norm='layer'"
                )
            normalised = (values - mean) * torch.rsqrt(variance + self.eps)
            if self.weight is not None and self.bias is not None:
                normalised = normalised * self.weight + self.bias
        return normalised.to(rows.dtype)


def norm_layers(norm: Norm, width: int, affine: bool = True) -> list[nn.Module]:
    """The norm as a list that may be empty."""
    if norm == "none":
        return []
    return [JoinedBatchNorm(width, affine) if norm == "batch" else nn.LayerNorm(width, elementwise_affine=affine)]
