"""Assignments of rows to prototypes, and learning those of one view from another."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.ops.gather import all_max, all_sum, world_size
from mmclip.ops.tiles import compute_dtype, without_autocast

Scores = Float[Tensor, "batch prototype"]


@torch.no_grad()
def sinkhorn(
    scores: Scores,
    epsilon: float,
    iterations: int,
    further: tuple[Float[Tensor, "more prototype"], Bool[Tensor, " more"]] | None = None,
) -> Scores:
    """Shares of each row that sum to 1 and use the prototypes evenly over all ranks (SwAV, Caron et al. 2020, section 3.1).

    Rows of exp(scores / epsilon) and then columns, of all ranks' rows together, are scaled in turn (Sinkhorn and Knopp).
    `further` scores, the same on all ranks (a queue), take part where their mask has it and are not returned. In logarithms and
    fp32 or fp64: in fp16 exp(1 / .05) is infinite, and differences below exp(-88) would vanish in any precision of 8 bits.
    """
    with without_autocast(scores.device):
        dtype = compute_dtype(scores)
        own = scores.to(dtype) / epsilon
        queue, valid = (own[:0], own[:0, 0].bool()) if further is None else (further[0].to(dtype) / epsilon, further[1])
        for _ in range(iterations):
            counted = queue.masked_fill(~valid[:, None], -torch.inf).logsumexp(dim=0)
            column = torch.logaddexp(_logsumexp_of_ranks(own), counted)
            own, queue = ((rows - column).log_softmax(dim=1) for rows in (own, queue))
        return own.softmax(dim=1)


def _logsumexp_of_ranks(rows: Scores) -> Float[Tensor, " prototype"]:
    greatest = all_max(rows.amax(dim=0))
    return all_sum((rows - greatest).exp().sum(dim=0)).log() + greatest


def sharpened(scores: Scores, centre: Float[Tensor, " prototype"], temperature: float) -> Scores:
    """Softmax of the centred scores, in fp32 or fp64 and without a gradient (DINO, Caron et al. 2021, equations 1 and 4)."""
    dtype = compute_dtype(scores)
    return ((scores.detach().to(dtype) - centre.detach()) / temperature).softmax(dim=1)


def swapped_cross_entropy(targets: Sequence[Scores], scores: Sequence[Scores], temperature: float) -> Float[Tensor, ""]:
    """How well each view tells the assignments of the others: the mean cross-entropy over rows and pairs of views.

    `targets[i]` are those of view i, for the first views; a view is never compared with itself (SwAV, Caron et al. 2020,
    equation 2; DINO, Caron et al. 2021, equation 3). In fp32 or fp64; no gradient reaches the targets.
    """
    with without_autocast(scores[0].device):
        dtype = compute_dtype(*scores)
        told = [(view.to(dtype) / temperature).log_softmax(dim=1) for view in scores]
        terms = [
            -(target.detach() * log).sum(dim=1).mean()
            for i, target in enumerate(targets)
            for j, log in enumerate(told)
            if i != j
        ]
        return torch.stack(terms).mean()


@torch.no_grad()
def entropy(targets: Sequence[Scores]) -> Float[Tensor, ""]:
    """Mean over rows of the entropy in nats: 0 where each row has one prototype, ln K where each has all."""
    return torch.stack([torch.special.entr(rows).sum(dim=1).mean() for rows in targets]).mean()


@torch.no_grad()
def used_share(targets: Sequence[Scores]) -> Float[Tensor, ""]:
    """Perplexity of the mean assignment of the global batch as a share of the prototypes: 1 where all are used evenly."""
    mean = all_sum(torch.stack([rows.mean(dim=0) for rows in targets]).mean(dim=0)) / world_size()
    return torch.special.entr(mean).sum().exp() / len(mean)
