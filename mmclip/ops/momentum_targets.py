"""Cross-entropy with targets that are partly a teacher's: momentum distillation (ALBEF, Li et al. 2021, section 3.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.ops.tiles import compute_dtype, without_autocast


@dataclass(frozen=True)
class Candidates:
    """A teacher's keys, and what each is to each row of this rank."""

    keys: tuple[Float[Tensor, "_ embed"], ...]
    """Side by side, not joined: a queue is too large to be copied at each step."""
    positive: Bool[Tensor, "batch candidate"]
    """The row's own key, and further ones of the same sample where they count as such: at least one in each row."""
    valid: Bool[Tensor, "batch candidate"]
    """Positives and negatives."""


def momentum_targets(
    teacher: Float[Tensor, "batch candidate"],
    positive: Bool[Tensor, "batch candidate"],
    valid: Bool[Tensor, "batch candidate"],
    alpha: float,
) -> Float[Tensor, "batch candidate"]:
    """`alpha` x the softmax of the teacher's logits + (1 - alpha) x an even share of each positive; rows sum to 1."""
    even = positive.to(teacher.dtype) / positive.sum(1, keepdim=True)
    if not alpha:
        return even
    return alpha * teacher.masked_fill(~valid, -torch.inf).softmax(1) + (1 - alpha) * even


def momentum_cross_entropy(
    rows: Float[Tensor, "batch embed"],
    teacher_rows: Float[Tensor, "batch embed"],
    candidates: Candidates,
    scale: Float[Tensor, "..."],
    alpha: float,
) -> Float[Tensor, ""]:
    """Mean over this rank's rows of the cross-entropy of their softmax over the keys (ALBEF, equation 6).

    `teacher_rows` are what the teacher makes of the same samples, and give the soft part of the targets at the same
    `scale`. Rows and keys are normalised. No gradient reaches the teacher's rows, the keys, or the scale through the
    targets. Holds a few matrices of batch x candidate in fp32, or fp64 where an input is.
    """
    with without_autocast(rows.device):
        dtype = compute_dtype(rows, teacher_rows, scale)
        keys, factor = [part.detach().to(dtype) for part in candidates.keys], scale.to(dtype)
        positive, valid = candidates.positive, candidates.valid
        with torch.no_grad():
            targets = momentum_targets(_logits(teacher_rows.to(dtype), keys, factor), positive, valid, alpha)
        logits = _logits(rows.to(dtype), keys, factor).masked_fill(~valid, -torch.inf)
        return -(targets * logits.log_softmax(1).masked_fill(~valid, 0)).sum(1).mean()


def _logits(rows: Tensor, keys: list[Tensor], scale: Tensor) -> Tensor:
    return torch.cat([(scale * rows) @ part.T for part in keys], 1)
