"""Whether the new model's confidence means what the old one's did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.change import Change
from mmclip_eval.compare.halves import mean_over_halves
from mmclip_eval.metrics.bootstrap import Counts, statistic_interval
from mmclip_eval.metrics.calibration import BINS, Reliability, confidence_of, reliability
from mmclip_eval.zero_shot import SAMPLE_BLOCK

Judged = tuple[Float[Tensor, " sample"], Bool[Tensor, " sample"]]
"""Confidence, and whether the answer is right."""


@dataclass(frozen=True)
class Confidence:
    """Calibration of a classification set before and after."""

    error: Change
    """Expected calibration error (Guo et al. 2017, eq. 3); less is better."""
    mean: Change
    """Mean confidence: a threshold on it that was tuned for A lets another share of the pictures pass."""
    before: Reliability
    after: Reliability


def confidence(a: Seen, b: Seen, against: Sequence[Seen] = ()) -> Confidence:
    """Compare the confidence of two models; both must have classes."""
    ours, theirs = judged(a), judged(b)
    others = [judged(one) for one in against]
    return Confidence(
        error=_change(ours, theirs, others, _error, _error_interval(ours, theirs)),
        mean=_change(ours, theirs, others, _mean, _mean_interval(ours[0], theirs[0])),
        before=reliability(*ours),
        after=reliability(*theirs),
    )


def judged(seen: Seen) -> Judged:
    """The highest softmax over the classes, at the model's own scale."""
    assert seen.class_embed is not None
    weights = seen.class_embed.T
    blocks = seen.image_embed.split(SAMPLE_BLOCK)
    return torch.cat([confidence_of(seen.logit_scale * (block @ weights)) for block in blocks]), seen.said.correct


def _change(ours: Judged, theirs: Judged, others: Sequence[Judged], figure, interval: tuple[float, float]) -> Change:
    before = figure(*ours)
    far = [abs(figure(*other) - before) for other in others]

    def apart(i: Tensor, j: Tensor) -> float:
        return abs(figure(ours[0][i], ours[1][i]) - figure(ours[0][j], ours[1][j]))

    return Change(
        before=before,
        after=figure(*theirs),
        low=interval[0],
        high=interval[1],
        ceiling=mean_over_halves(len(ours[0]), apart, stream=3),
        floor=sum(far) / len(far) if far else None,
    )


def _error(confidence: Tensor, correct: Tensor) -> float:
    return reliability(confidence, correct).expected_error


def _mean(confidence: Tensor, correct: Tensor) -> float:
    return float(confidence.mean())


def _error_interval(ours: Judged, theirs: Judged) -> tuple[float, float]:
    """Both errors rise alike in a replicate, so their difference needs no centring."""
    gaps = [_gaps(*side) for side in (ours, theirs)]

    def difference(counts: Counts) -> NDArray[np.float64]:
        before, after = (np.abs(counts @ gap).sum(axis=1) / counts.sum(axis=1) for gap in gaps)
        return after - before

    return statistic_interval([len(ours[0])], difference)


def _gaps(confidence: Tensor, correct: Tensor) -> NDArray[np.float64]:
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])
    gap = torch.zeros(len(place), BINS, dtype=torch.float64)
    gap[torch.arange(len(place)), place] = confidence - correct.double()
    return gap.numpy()


def _mean_interval(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    steps = (theirs - ours).numpy()

    def difference(counts: Counts) -> NDArray[np.float64]:
        return (counts @ steps) / counts.sum(axis=1)

    return statistic_interval([len(steps)], difference)
