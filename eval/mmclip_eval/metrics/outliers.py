"""Telling the samples of a set from those of another: by the energy of their logits, or by the best softmax."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Counts, Interval, statistic_interval


def energy_score(logits: Float[Tensor, "sample class"]) -> Float[Tensor, " sample"]:
    """Negative free energy, log sum exp of the logits (Liu et al., 2020): higher for what belongs to the set."""
    return _finite(logits).logsumexp(dim=1)


def softmax_score(logits: Float[Tensor, "sample class"]) -> Float[Tensor, " sample"]:
    """Logarithm of the best softmax (Hendrycks and Gimpel, 2017): the same order, without its ties at 1."""
    best, place = _finite(logits).max(dim=1, keepdim=True)
    others = (logits.double() - best).exp().scatter(1, place, 0)
    return -others.sum(dim=1).log1p()  # log_softmax would add the 1 of the best first, and round the others away


def auroc(inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]) -> tuple[float, Interval]:
    """How often a score of `inside` exceeds one of `outside`, a tie counting half, and its 95 % interval.

    Raises:
        ValueError: a score is not finite, or a side is empty.
    """
    return _estimate(inside, outside, _area)


def fpr95(inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]) -> tuple[float, Interval]:
    """Share of `outside` that the highest threshold lets in which keeps at least 95 % of `inside`, and its interval.

    What ties with the threshold is let in: a constant score lets in everything.

    Raises:
        ValueError: a score is not finite, or a side is empty.
    """
    return _estimate(inside, outside, _let_in)


_Figure = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Of the counts, per replicate and threshold from high to low, of inside and of outside that score at least as high."""


def _estimate(inside: Tensor, outside: Tensor, figure: _Figure) -> tuple[float, Interval]:
    sizes = [len(inside), len(outside)]
    if not all(sizes):
        raise ValueError(f"{sizes[0]} samples inside and {sizes[1]} outside: expected some of each")
    scores = _finite(torch.cat([inside, outside])).numpy()
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    is_inside = order < sizes[0]

    def of_counts(counts: Counts) -> NDArray[np.float64]:
        drawn = counts[:, order]
        kept, let_in = (
            np.cumsum(drawn * side, axis=1, dtype=np.float64)[:, last_of_tie] for side in (is_inside, ~is_inside)
        )
        return figure(kept, let_in)

    value = float(of_counts(np.ones((1, sum(sizes)), dtype=np.int32))[0])
    return value, statistic_interval(sizes, of_counts)


def _area(kept: NDArray[np.float64], let_in: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.diff(let_in, axis=1, prepend=0)
    middles = kept - np.diff(kept, axis=1, prepend=0) / 2
    return (steps * middles).sum(axis=1) / (kept[:, -1] * let_in[:, -1])


def _let_in(kept: NDArray[np.float64], let_in: NDArray[np.float64]) -> NDArray[np.float64]:
    enough = 20 * kept >= 19 * kept[:, -1:]  # in whole numbers: 0.95 * n may round to either side of one
    first = enough.argmax(axis=1)[:, None]
    return np.take_along_axis(let_in, first, axis=1)[:, 0] / let_in[:, -1]


def _finite(scores: Tensor) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold a non-finite value: comparing them is undefined")
    return scores.double()
