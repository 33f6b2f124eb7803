"""Whether the confidence of a classifier is the share of times that it is right (Guo et al., 2017)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Counts, Interval, statistic_interval

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over the confidence, (0, 1/bins] to (1 - 1/bins, 1]: the rows of a reliability diagram."""

    size: Int[Tensor, " bin"]
    confidence: Float[Tensor, " bin"]
    """Mean confidence of the bin; nan where it is empty."""
    accuracy: Float[Tensor, " bin"]
    """Share of the bin that is right; nan where it is empty."""

    @property
    def expected_error(self) -> float:
        """ECE: the mean distance of confidence and accuracy, each bin weighted by its samples."""
        return float((self._gaps * self.size).nansum() / self.size.sum())

    @property
    def largest_error(self) -> float:
        """MCE: the distance in the worst bin that holds a sample."""
        return float(self._gaps[self.size > 0].max())

    @property
    def _gaps(self) -> Tensor:
        return (self.confidence - self.accuracy).abs()


def confidence_of(
    logits: Float[Tensor, "sample class"],
) -> Float[Tensor, " sample"]:
    """The highest softmax of each row, in double precision.

    Raises:
        ValueError: `logits` holds a non-finite value.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits hold a non-finite value: their softmax is undefined")
    return logits.double().softmax(dim=1).amax(dim=1)


def reliability(
    confidence: Float[Tensor, " sample"], correct: Bool[Tensor, " sample"], bins: int = BINS
) -> Reliability:
    """Sort samples into bins by their confidence.

    Raises:
        ValueError: there is no sample, or a confidence is not in (0, 1].
    """
    place = _bin_of(confidence, bins)
    size = torch.bincount(place, minlength=bins)
    sums = [torch.bincount(place, weights=figure.double(), minlength=bins) for figure in (confidence, correct)]
    return Reliability(size, sums[0] / size, sums[1] / size)


def expected_error_interval(
    confidence: Float[Tensor, " sample"], correct: Bool[Tensor, " sample"], bins: int = BINS
) -> Interval:
    """95 % interval of the expected calibration error, centred on it: noise alone raises every replicate's."""
    place = _bin_of(confidence, bins)
    gap = torch.zeros(len(place), bins, dtype=torch.float64)
    gap[torch.arange(len(place)), place] = confidence.double() - correct.double()
    columns = gap.numpy()

    def error(counts: Counts) -> NDArray[np.float64]:
        return np.abs(counts @ columns).sum(axis=1) / counts.sum(axis=1)

    return statistic_interval([len(place)], error, centre=reliability(confidence, correct, bins).expected_error)


def _bin_of(confidence: Tensor, bins: int) -> Tensor:
    if not len(confidence):
        raise ValueError("calibration of no samples is undefined")
    if not bool(((confidence > 0) & (confidence <= 1)).all()):
        raise ValueError("a confidence lies outside (0, 1]")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    return torch.bucketize(confidence.double(), edges[1:-1])
