"""Representational similarity analysis: whether two models put the same pairs of rows far apart (Kriegeskorte et al. 2008)."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from mmclip_eval.compare.representation.grams import Gram, Grams, centred, cosines
from mmclip_eval.compare.representation.pair import Features, NoFigure

Correlation = Literal["spearman", "pearson"]


def rsa(x: Features, y: Features, correlation: Correlation = "spearman") -> float:
    """Correlation of the two models' cosine distances between all pairs of rows, in [-1, 1].

    Features are centred first: a direction that all rows share would hide what tells them apart.

    Raises:
        UserError: features that cannot be compared, see `Grams`.
        NoFigure: all pairs are equally far apart.
    """
    return rsa_of(Grams.of(x, y), correlation)


def rsa_of(grams: Grams, correlation: Correlation = "spearman") -> float:
    """`rsa` from products of rows."""
    first, second = _distances(grams.x), _distances(grams.y)
    if correlation == "spearman":
        first, second = ranks(first), ranks(second)
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    if size == 0:
        raise NoFigure("all pairs of rows are equally far apart: the layer has collapsed")
    return float(np.clip(first @ second / size, -1, 1))


def ranks(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    """From 1; equal values share the mean of their ranks, as scipy's `rankdata` has it."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def _distances(gram: Gram) -> Float[np.ndarray, " pair"]:
    """Of each pair once."""
    return 1 - cosines(centred(gram))[np.triu_indices(len(gram), 1)]
