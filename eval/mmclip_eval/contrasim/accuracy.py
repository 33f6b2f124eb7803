"""Layer prediction: how often the layer that a measure finds most alike is the right one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.contrasim.splits import Fold
from mmclip_eval.metrics.bootstrap import Counts, Interval, statistic_interval
from mmclip_eval.metrics.wilson import wilson_interval

Hits = Float[Tensor, "model model layer"]
"""[i, j, l]: 1 where the right layer of model j was found for layer l of model i, 0 where not; nan where it was not asked."""


@dataclass(frozen=True)
class Accuracy:
    """The share of questions that were answered rightly."""

    value: float
    interval: Interval
    """95 %: models and layers are both drawn anew, so that pairs with a model in common are drawn together."""
    questions: int
    """A model, one of its layers, and another model."""


def all_pairs(count: int) -> Bool[Tensor, "model model"]:
    """Every ordered pair of two models."""
    return ~torch.eye(count, dtype=torch.bool)


def held_out_pairs(count: int, folds: Sequence[Fold]) -> Bool[Tensor, "model model"]:
    """Every ordered pair of two models that one fold holds out."""
    asked = torch.zeros(count, count, dtype=torch.bool)
    for fold in folds:
        tested = torch.tensor(fold.test)
        asked[tested[:, None], tested[None, :]] = True
    return asked & all_pairs(count)


def found_layers(
    similarity: Float[Tensor, "model layer model layer"],
    labels: Int[Tensor, "model layer"],
    asked: Bool[Tensor, "model model"],
) -> Hits:
    """Whether the most similar layer is that of the same label; a tie with a wrong one is no hit.

    Raises:
        ValueError: a similarity is no number; minus infinity is one, which finds nothing.
    """
    if similarity.isnan().any():
        raise ValueError("similarities of layers must be numbers")
    scores = similarity.permute(0, 2, 1, 3)  # [i, j, layer of i, layer of j]
    right = labels[:, None, :, None] == labels[None, :, None, :]
    best_right = scores.masked_fill(~right, -torch.inf).amax(dim=3)
    best_wrong = scores.masked_fill(right, -torch.inf).amax(dim=3)
    return (best_right > best_wrong).double().masked_fill(~asked[:, :, None], torch.nan)


def accuracy_of(hits: Hits) -> Accuracy:
    """The share of hits among what was asked, with its interval."""
    questions = int(hits.isfinite().sum())
    value = float(hits.nanmean())
    if value in (0.0, 1.0):  # resampling would call it certain: each layer of each model is counted once
        layers = int(hits.isfinite().any(dim=1).sum())
        interval = wilson_interval(round(value * layers), layers)
    else:
        interval = _interval(hits)
    return Accuracy(value, interval, questions)


def difference_of(hits: Hits, others: Hits) -> tuple[float, Interval]:
    """Accuracy of `hits` minus that of `others` on the same questions, in shares, with its interval.

    Raises:
        ValueError: they answer different questions.
    """
    if not torch.equal(hits.isnan(), others.isnan()):
        raise ValueError("accuracies are compared on the same questions")
    return float((hits - others).nanmean()), _interval(hits - others)


def _interval(values: Hits) -> Interval:
    models, _, layers = values.shape
    asked = values.isfinite().any(dim=2).numpy().astype(np.float64)
    rows = values.nan_to_num().numpy()

    def mean(counts: Counts) -> NDArray[np.float64]:
        drawn, layer = counts[:, :models].astype(np.float64), counts[:, models:].astype(np.float64)
        weight = np.einsum("ri,rj,ij->r", drawn, drawn, asked, optimize=True) * layer.sum(axis=1)
        total = np.einsum("ri,rj,rl,ijl->r", drawn, drawn, layer, rows, optimize=True)
        return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)

    return statistic_interval([models, layers], mean)
