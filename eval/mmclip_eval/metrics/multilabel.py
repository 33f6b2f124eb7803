"""Average precision of each class of a multi-label set: the area under its precision-recall curve, step by step."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Counts, Interval, statistic_interval


def average_precision(
    scores: Float[Tensor, "sample class"], positive: Bool[Tensor, "sample class"]
) -> Float[Tensor, " class"]:
    """Per class the mean, over its positives, of the precision at their score; nan for a class without a positive.

    Equal scores enter the curve together, as in scikit-learn: a constant score gives the share of positives.

    Raises:
        ValueError: `scores` holds a non-finite value, or there is no sample.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold a non-finite value: their order is undefined")
    if not len(scores):
        raise ValueError("average precision of no samples is undefined")
    one = np.ones((1, len(scores)), dtype=np.int32)
    return torch.tensor([float(of_counts(one)[0]) for of_counts in _classes(scores, positive)], dtype=torch.float64)


def mean_average_precision_interval(
    scores: Float[Tensor, "sample class"], positive: Bool[Tensor, "sample class"]
) -> Interval:
    """95 % interval of the mean over the classes that have a positive; samples are drawn with all their classes."""
    classes = [of_counts for of_counts, has in zip(_classes(scores, positive), positive.any(dim=0), strict=True) if has]

    def mean(counts: Counts) -> NDArray[np.float64]:
        return np.nanmean([of_counts(counts) for of_counts in classes], axis=0)

    return statistic_interval([len(scores)], mean)


def chance_average_precision(positive: Bool[Tensor, "sample class"]) -> Float[Tensor, " class"]:
    """Expected average precision of a random order (Bestgen, "Exact expected average precision", 2015)."""
    samples = len(positive)
    harmonic = float((1 / torch.arange(1, samples + 1, dtype=torch.float64)).sum())
    share = (positive.sum(dim=0).double() - 1) / max(samples - 1, 1)
    return share + harmonic / samples * (1 - share)


def _classes(scores: Tensor, positive: Tensor) -> list[Callable[[Counts], NDArray[np.float64]]]:
    columns = zip(scores.T.numpy(), positive.T.numpy(), strict=True)
    return [_of_counts(column, is_positive) for column, is_positive in columns]


def _of_counts(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Callable[[Counts], NDArray[np.float64]]:
    """Average precision of one class as a function of how often each sample was drawn."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.flatnonzero(positive[order])
    entered = last_of_tie[np.searchsorted(last_of_tie, hits)]  # where the whole tie of a positive has entered
    seen_hits = np.searchsorted(hits, entered, side="right") - 1

    def of_counts(counts: Counts) -> NDArray[np.float64]:
        drawn = counts[:, order]
        weight = drawn[:, hits]
        above = np.cumsum(drawn, axis=1, dtype=np.int32)[:, entered]
        true_above = np.cumsum(weight, axis=1, dtype=np.int32)[:, seen_hits]
        # A positive that was not drawn weighs nothing, also where nothing at all was drawn above it.
        sums = (weight * (true_above / np.maximum(above, 1))).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return sums / weight.sum(axis=1)

    return of_counts
