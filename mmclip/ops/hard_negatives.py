"""InfoNCE whose negatives weigh the more, the more similar they are to the anchor."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def hard_negative_infonce(
    logits: Float[Tensor, "anchor candidate"],
    positive: Bool[Tensor, "anchor candidate"],
    negative: Bool[Tensor, "anchor candidate"],
    scale: Float[Tensor, "..."],
    beta: float,
    tau_plus: float,
) -> Float[Tensor, ""]:
    """Mean over anchors of log(1 + n e^-s), n being what the negatives amount to (Robinson et al. 2021, equation 4).

    `logits` are `scale` x cosines and s is the anchor's positive logit; each anchor has one positive. n is N times the mean
    of e^logit over its N negatives under weights in proportion to e^(beta x logit). A `tau_plus` above 0 is the chance
    that a negative is of the anchor's own kind, and takes its part off: (n - tau_plus N e^s) / (1 - tau_plus), at least
    the N e^-scale of negatives that are as far away as they can be (Chuang et al. 2020). With both 0 this is InfoNCE. An anchor
    without negatives has the term 0.
    """
    own = logits.masked_fill(~positive, 0).sum(1)
    count = negative.sum(1).to(logits.dtype).clamp(min=1).log()
    alone = ~negative.any(1)
    # A row of minus infinities alone would give a NaN, also to a term that is not counted.
    left_out = ~negative & ~alone[:, None]
    weights, weighted = ((power * logits).masked_fill(left_out, -torch.inf).logsumexp(1) for power in (beta, 1 + beta))
    weighed = weighted - weights + count
    if tau_plus:
        weighed = _debiased(weighed, own, count, scale, tau_plus)
    terms = -F.logsigmoid(own - weighed)
    return terms.masked_fill(alone, 0).mean()


def _debiased(
    weighed: Float[Tensor, " anchor"],
    own: Float[Tensor, " anchor"],
    count: Float[Tensor, " anchor"],
    scale: Float[Tensor, "..."],
    tau_plus: float,
) -> Float[Tensor, " anchor"]:
    """All in logarithms: at a scale of 100 the numbers themselves leave single precision."""
    excess = own + count + math.log(tau_plus) - weighed  # log of what is taken off, as a share of what is there
    nothing = -4 * torch.finfo(own.dtype).eps
    # The gradient of log 0 would be NaN, also where it is not chosen.
    kept = torch.log1p(-excess.clamp(max=nothing).exp())
    corrected = weighed + kept - math.log1p(-tau_plus)
    lowest = count - scale
    return torch.where((excess < nothing) & (corrected > lowest), corrected, lowest)
