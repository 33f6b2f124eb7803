"""Debiased linear CKA of every layer of one model with every layer of another, from blocks of their kernels."""

import numpy as np
from jaxtyping import Float

from mmclip_eval.compare.representation.cka import unbiased_hsic
from mmclip_eval.compare.representation.pair import NoFigure, centred_rows

BLOCK_ROWS = 100
"""Rows of all layers' kernels that are held at a time."""


def cka_matrix(
    layers: list[Float[np.ndarray, "row _"]], others: list[Float[np.ndarray, "row _"]]
) -> Float[np.ndarray, "layer other_layer"]:
    """What `linear_cka` gives for each layer with each other layer; nan where one of the two has collapsed.

    Sums of products of two kernels are inner products of long vectors, so that one matrix product makes those of all pairs:
    every kernel is computed once and not once a pair.
    """
    first, second = [_centred(layer) for layer in layers], [_centred(layer) for layer in others]
    both = [*first, *second]
    rows = len(both[0])
    inner = np.zeros((len(both), len(both)))
    for start in range(0, rows, BLOCK_ROWS):
        block = np.stack([(x[start : start + BLOCK_ROWS] @ x.T).ravel() for x in both])
        inner += block @ block.T
    lengths = [(x**2).sum(axis=1) for x in both]
    own = [unbiased_hsic(inner[i, i], lengths[i], lengths[i]) for i in range(len(both))]
    scale = np.array([value**-0.5 if value > 0 else np.nan for value in own])
    hsic = np.array(
        [
            [unbiased_hsic(inner[i, len(first) + j], lengths[i], lengths[len(first) + j]) for j in range(len(second))]
            for i in range(len(first))
        ]
    )
    return np.minimum(1, hsic * scale[: len(first), None] * scale[len(first) :])


def _centred(features: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row width"]:
    try:
        return centred_rows(features)
    except NoFigure:
        return np.zeros(features.shape)
