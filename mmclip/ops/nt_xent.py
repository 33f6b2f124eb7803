"""NT-Xent: InfoNCE between two views of each sample, against both views of all others."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.gather import gather, rank, world_size
from mmclip.ops.tiles import compute_dtype, without_autocast


def nt_xent(
    first: Float[Tensor, "batch embed"], second: Float[Tensor, "batch embed"], temperature: float
) -> Float[Tensor, ""]:
    """This rank's part of the loss over the global batch, times the number of ranks (SimCLR, Chen et al. 2020, equation 1).

    Row i of both tensors is one sample; rows are normalised here. Each of the 2 x global_batch views must find its partner
    among all others: its positive stands among the candidates too, it does not itself. Holds 2 batch x 2 global_batch
    logits in fp32, or fp64 where an input is.

    Raises:
        UserError: one sample in all, which has no negative.
    """
    if len(first) * world_size() < 2:
        raise UserError("simclr: expected a global batch of at least 2, got 1, which leaves its two views no negative")
    with without_autocast(first.device):
        dtype = compute_dtype(first, second)
        views = [F.normalize(rows.to(dtype), dim=1) for rows in (first, second)]
        candidates = torch.cat([gather(rows) for rows in views])
        logits = torch.cat(views) @ candidates.T / temperature
        place, half = _places(first), len(candidates) // 2
        own, partner = torch.cat([place, place + half]), torch.cat([place + half, place])
        itself = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)
        return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


def _places(rows: Float[Tensor, "batch embed"]) -> Tensor:
    """Where this rank's rows stand among those of all ranks."""
    return rank() * len(rows) + torch.arange(len(rows), device=rows.device)
