"""What is left of an accuracy on shifted data, and how much more than other models of that accuracy keep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Counts, Interval, difference_interval, statistic_interval


def robustness_gap(clean: Bool[Tensor, " sample"], shifted: Bool[Tensor, " shifted_sample"]) -> tuple[float, Interval]:
    """Accuracy on the clean set minus that on the shifted one, and its interval, where each set is drawn by itself.

    Raises:
        ValueError: a set has no sample.
    """
    if not len(clean) or not len(shifted):
        raise ValueError(f"{len(clean)} clean and {len(shifted)} shifted samples: expected some of each")
    gap = float(clean.double().mean()) - float(shifted.double().mean())
    return gap, difference_interval(clean, shifted)


@dataclass(frozen=True)
class Baseline:
    """A line through the accuracies of other models, clean against shifted, on logit axes (Taori et al., 2020)."""

    slope: float
    intercept: float

    def expected(self, clean: float) -> float:
        """The accuracy on shifted data that the line gives a model of this accuracy on clean data; its ends at 0 and 1."""
        if not 0 < clean < 1:
            return float((clean > 0) == (self.slope > 0))
        return _expit(self.slope * logit(clean) + self.intercept)

    def effective_robustness(self, clean: float, shifted: float) -> float:
        """How far the shifted accuracy lies above the line."""
        return shifted - self.expected(clean)


def fit_baseline(clean: Sequence[float], shifted: Sequence[float]) -> Baseline:
    """Least squares on logit axes over at least two models of different clean accuracy.

    Raises:
        ValueError: there are fewer, or an accuracy is 0 or 1, where the logit is infinite.
    """
    if len(set(clean)) < 2 or len(clean) != len(shifted):
        raise ValueError(
            f"{len(clean)} clean and {len(shifted)} shifted accuracies: expected pairs of at least 2 models"
        )
    slope, intercept = np.polyfit([logit(value) for value in clean], [logit(value) for value in shifted], deg=1)
    return Baseline(float(slope), float(intercept))


def effective_robustness_interval(
    line: Baseline, clean: Bool[Tensor, " sample"], shifted: Bool[Tensor, " shifted_sample"]
) -> Interval:
    """95 % interval of the effective robustness beside a fixed line, where each set is drawn by itself.

    Raises:
        ValueError: a set has no sample.
    """
    sizes = [len(clean), len(shifted)]
    hits = torch.cat([clean, shifted]).numpy()

    def robustness(counts: Counts) -> NDArray[np.float64]:
        drawn = counts * hits
        accuracies = drawn[:, : sizes[0]].sum(axis=1) / sizes[0], drawn[:, sizes[0] :].sum(axis=1) / sizes[1]
        return np.array([line.effective_robustness(*pair) for pair in zip(*accuracies, strict=True)])

    return statistic_interval(sizes, robustness)


def logit(accuracy: float) -> float:
    """Log odds of an accuracy.

    Raises:
        ValueError: it is not inside (0, 1).
    """
    if not 0 < accuracy < 1:
        raise ValueError(f"the logit of an accuracy of {accuracy} is infinite: expected one between 0 and 1")
    return math.log(accuracy / (1 - accuracy))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))
