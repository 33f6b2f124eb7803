"""Triplet loss between the two modalities, with negatives chosen from the global batch."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.ops.gather import all_sum, world_size

Mining = Literal["hardest", "semi_hard", "all"]
"""Which negatives an anchor is compared with: the most similar one (VSE++, Faghri et al. 2018, equation 6), the most similar
of those that are less similar than the positive (FaceNet, Schroff et al. 2015, equation 4), or every one."""


def triplet(
    similarity: Float[Tensor, "anchor candidate"],
    positive: Bool[Tensor, "anchor candidate"],
    negative: Bool[Tensor, "anchor candidate"],
    margin: float,
    mining: Mining,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """This rank's part, times the number of ranks, of the mean of [margin - positive + negative]+, and the share above 0.

    Each anchor has one positive. With `hardest` and `semi_hard` the mean is over anchors, and one without a negative to
    choose has the term 0. With `all` it is over the triplets above 0 (Hermans et al. 2017): over all of them it
    would vanish as most come to be far apart; the share is of all triplets.
    """
    own = similarity.masked_fill(~positive, 0).sum(1, keepdim=True)
    if mining == "all":
        terms = (margin - own + similarity).clamp(min=0).masked_fill(~negative, 0)
        above = all_sum((terms > 0).sum().to(terms.dtype))
        share = above / all_sum(negative.sum().to(terms.dtype)).clamp(min=1)
        return world_size() * terms.sum() / above.clamp(min=1), share
    eligible = negative & (similarity < own) if mining == "semi_hard" else negative
    hardest = similarity.masked_fill(~eligible, -torch.inf).amax(1)
    terms = (margin - own[:, 0] + hardest).clamp(min=0)
    return terms.mean(), (terms > 0).to(terms.dtype).mean()
