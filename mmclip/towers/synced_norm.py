"""Batch norm over the batch of all ranks (Ioffe and Szegedy 2015, on the whole batch): the statistics of one process.

torch's `SyncBatchNorm` has kernels for CUDA alone and raises on CPUs; this one is written in differentiable operations.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmclip.ops.gather import world_size
from mmclip.ops.moments import joined_moments


class _Synced(nn.modules.batchnorm._BatchNorm):
    """While it trains on several ranks, mean and variance are those of all their rows; else it is torch's own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        if not self.training or world_size() == 1:
            return super().forward(input)
        return self._normalised(input)

    def _normalised(self, rows: Tensor) -> Tensor:
        dims = [0, *range(2, rows.ndim)]
        values = rows if rows.dtype == torch.float64 else rows.float()  # as torch's kernels: sums in fp32 at least
        mean, variance, count = joined_moments(values, dims)
        self._note(mean.detach(), variance.detach(), count)
        shape = [1, -1, *[1] * (rows.ndim - 2)]
        normalised = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(rows.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None, "counted wherever statistics are kept"
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / max(1, count - 1)).to(self.running_var), share)


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all ranks."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all ranks."""


@cache
def _kinds() -> dict[type[nn.Module], type[nn.Module]]:
    """What is synchronised, and by what; other subclasses of torch's, which have a forward of their own, are not."""
    from timm.layers.norm_act import BatchNormAct2d

    class SyncedBatchNormAct2d(_Synced, BatchNormAct2d):
        """timm's, with the activation that follows."""

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
            if not self.training or world_size() == 1:
                return BatchNormAct2d.forward(self, input)
            parts: Any = self
            return parts.act(parts.drop(self._normalised(input)))

    return {
        nn.BatchNorm1d: SyncedBatchNorm1d,
        nn.BatchNorm2d: SyncedBatchNorm2d,
        BatchNormAct2d: SyncedBatchNormAct2d,
    }


def synchronise(module: nn.Module) -> None:
    """Let every batch norm in `module` that can be synchronised be it; names, weights and statistics stay as they are."""
    norms: list[Any] = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.__class__ = _kinds().get(type(norm), type(norm))


def is_synchronised(module: nn.Module) -> bool:
    """Whether it is a batch norm that sees the rows of all ranks."""
    return isinstance(module, _Synced)
