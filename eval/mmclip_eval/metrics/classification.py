"""Accuracy figures of a classifier's score matrix; a tie never counts as a win."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def true_class_rank(scores: Float[Tensor, "sample class"], labels: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
    """How many other classes score at least as high as the true one: 0 is a strict win.

    Raises:
        ValueError: `scores` holds a non-finite value, or a label names no column.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold a non-finite value: ranks among them are undefined")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise ValueError(f"labels span {int(labels.min())} to {int(labels.max())}: expected 0 to {scores.shape[1] - 1}")
    own = scores.gather(1, labels[:, None].long())
    return (scores >= own).sum(dim=1) - 1  # the true class ties with itself


def top_k_accuracy(rank: Int[Tensor, " sample"], k: int) -> float:
    """Fraction of samples whose true class is among the `k` best.

    Raises:
        ValueError: there is no sample.
    """
    if not rank.numel():
        raise ValueError("accuracy of no samples is undefined")
    return int((rank < k).sum()) / rank.numel()


def mean_per_class_recall(correct: Bool[Tensor, " sample"], labels: Int[Tensor, " sample"]) -> float:
    """Recall averaged over the classes that occur in `labels`, each with the same weight.

    Raises:
        ValueError: there is no sample.
    """
    if not labels.numel():
        raise ValueError("recall of no samples is undefined")
    samples = torch.bincount(labels)
    hits = torch.bincount(labels, weights=correct.double())
    present = samples > 0
    return float((hits[present] / samples[present]).mean())
