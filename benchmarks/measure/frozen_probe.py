"""A linear probe on features as they are, and how many directions they fill."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.training.diagnostics import effective_rank
from mmclip_eval.metrics.wilson import wilson_interval
from mmclip_eval.probes.drawing import hold_out
from mmclip_eval.probes.logistic import Examples, fit_probe

HELD_OUT = 0.2
"""Of the examples, to choose the strength on."""
STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 2))
"""Of standardised features the scale is known: the sweep of `linear_probe` over 12 decades would cost minutes a fit."""


@dataclass(frozen=True)
class Probed:
    """How a probe did."""

    accuracy: float
    interval: tuple[float, float]
    """Wilson's, over the pictures."""
    strength: float


def probed(learnt: Examples, asked: Examples, classes: int) -> Probed:
    """Logistic regression on `learnt`, its strength chosen on some of them, asked for the class of `asked`.

    Every dimension is brought to mean 0 and deviation 1 over `learnt` first (MAE, He et al. 2022, appendix A.1): features
    of different objectives have different scales, and a constant part that a regression should not have to find.
    """
    learnt, asked = standardised(learnt, learnt.embed), standardised(asked, learnt.embed)
    some, held_out = hold_out(learnt, HELD_OUT, seed=0)
    strength = max(STRENGTHS, key=lambda strength: hits_of(some, held_out, classes, strength))
    hits, count = hits_of(learnt, asked, classes, strength), len(asked.labels)
    return Probed(hits / count, wilson_interval(hits, count), strength)


def hits_of(learnt: Examples, asked: Examples, classes: int, strength: float) -> int:
    """How many of `asked` a probe of this strength knows."""
    return int((fit_probe(learnt, classes, strength).scores(asked.embed).argmax(dim=1) == asked.labels).sum())


def standardised(examples: Examples, over: Float[Tensor, "example embed"]) -> Examples:
    """Mean 0 and deviation 1 in every dimension that varies in `over`."""
    deviation = over.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-6 * over.abs().max(), deviation, torch.ones_like(deviation))
    return Examples((examples.embed - over.mean(dim=0)) / scale, examples.labels)


def ranks(features: Float[Tensor, "sample width"]) -> tuple[float, float]:
    """RankMe of the directions of features, uncentred and centred, as a run logs them."""
    directions = F.normalize(features, dim=1)
    return float(effective_rank(directions)), float(effective_rank(directions, centred=True))
