"""What all ranks decide together: the mean of their gradients, and whether any of them has met a number that is none."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from mmclip.ops.gather import world_size

BUCKET_BYTES = 32 << 20
"""Of one message: enough that its latency does not count, little beside the gradients themselves."""


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, which all have gradients of the same parameters."""
    ranks = world_size()
    if ranks == 1:
        return
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        joined = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(joined)
        joined /= ranks
        for gradient, mean in zip(bucket, joined.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def not_finite(*figures: Tensor) -> Float[Tensor, ""]:
    """1 where any of the figures of any rank is infinite or no number, else 0; on the device, nobody waits for it."""
    found = torch.stack([~torch.isfinite(figure).all() for figure in figures]).any().float()
    if world_size() > 1:
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in their order, in groups of one type that reach `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size >= BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
