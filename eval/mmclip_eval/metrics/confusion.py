"""What was taken for what: the confusion matrix, and the figures that are read off it."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Counts, Interval, statistic_interval
from mmclip_eval.metrics.classification import true_class_rank


def rank_and_prediction(
    scores: Float[Tensor, "sample class"], labels: Int[Tensor, " sample"]
) -> tuple[Int[Tensor, " sample"], Int[Tensor, " sample"]]:
    """`true_class_rank`, and the class of the highest score; where the true class ties with it, the first rival.

    Raises:
        ValueError: `scores` holds a non-finite value, or a label names no column.
    """
    rank = true_class_rank(scores, labels)
    rivals = scores.scatter(1, labels[:, None].long(), -torch.inf)
    return rank, torch.where(rank > 0, rivals.argmax(dim=1), labels)


def confusion_matrix(
    predicted: Int[Tensor, " sample"], labels: Int[Tensor, " sample"], classes: int
) -> Int[Tensor, "true predicted"]:
    """How many samples of each true class (row) were taken for each class (column)."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def macro_recall(confusion: Int[Tensor, "true predicted"]) -> float:
    """Mean recall of the classes that have a sample."""
    return _mean_of_present(_recall(confusion), confusion)


def macro_f1(confusion: Int[Tensor, "true predicted"]) -> float:
    """Mean F1 score of the classes that have a sample, as WILDS takes it."""
    return _mean_of_present(f1_of_classes(confusion), confusion)


def f1_of_classes(confusion: Int[Tensor, "true predicted"]) -> Float[Tensor, " class"]:
    """F1 score of each class: 2 hits / (samples of the class + times it was named); nan where it has neither."""
    return 2 * confusion.diagonal().double() / (confusion.sum(dim=0) + confusion.sum(dim=1))


def macro_f1_interval(predicted: Int[Tensor, " sample"], labels: Int[Tensor, " sample"], classes: int) -> Interval:
    """95 % interval of `macro_f1`; a class that a replicate leaves out is left out of its mean."""
    right = (predicted == labels).numpy()
    by_label, by_predicted = _sums_by(labels.numpy(), classes), _sums_by(predicted.numpy(), classes)

    def mean(counts: Counts) -> NDArray[np.float64]:
        present, named, hits = by_label(counts), by_predicted(counts), by_label(counts * right)
        score = 2 * hits / np.maximum(present + named, 1)
        return np.where(present > 0, score, 0).sum(axis=1) / (present > 0).sum(axis=1)

    value = macro_f1(confusion_matrix(predicted, labels, classes))
    return statistic_interval([len(labels)], mean, centre=value)


def chance_macro_f1(labels: Int[Tensor, " sample"], classes: int) -> float:
    """`macro_f1` of the confusion matrix that a uniform guess is expected to have."""
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return float((2 * share / (1 + classes * share))[share > 0].mean())


def _recall(confusion: Tensor) -> Tensor:
    return confusion.diagonal().double() / confusion.sum(dim=1)


def _mean_of_present(figure: Tensor, confusion: Tensor) -> float:
    present = confusion.sum(dim=1) > 0
    if not bool(present.any()):
        raise ValueError("the mean over classes of no samples is undefined")
    return float(figure[present].mean())


def _sums_by(index: NDArray[np.int64], size: int):
    order = np.argsort(index, kind="stable")
    names, starts = np.unique(index[order], return_index=True)

    def sums(counts: Counts) -> NDArray[np.int64]:
        found = np.zeros((len(counts), size), dtype=np.int64)
        found[:, names] = np.add.reduceat(counts[:, order], starts, axis=1)
        return found

    return sums
