"""Similarities that nothing is trained for, on the same questions as the learned one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip_eval.contrasim.fit import Model

Measure = Callable[[Float[Tensor, "row left"], Float[Tensor, "row right"]], float]
"""How alike two sets of rows are that stand for the same examples; more is more alike."""
CKA = "debiased CKA"


def dot(left: Float[Tensor, "row width"], right: Float[Tensor, "row width"]) -> float:
    """Mean inner product of the rows."""
    return float((left * right).sum(dim=1).mean())


def norm(left: Float[Tensor, "row width"], right: Float[Tensor, "row width"]) -> float:
    """Minus the mean Euclidean distance of the rows."""
    return -float((left - right).norm(dim=1).mean())


SAME_WIDTH: Mapping[str, Measure] = {"dot": dot, "norm": norm}
"""Measures of rows that share their axes."""


def similarity_of(models: Sequence[Model], measure: Measure) -> Float[Tensor, "model layer model layer"]:
    """A symmetric measure between the layers of any two different models; of a model with itself it is 0."""
    units = [layer for model in models for layer in model]
    depth = len(models[0])
    found = torch.zeros(len(units), len(units), dtype=torch.float64)
    for i, left in enumerate(units):
        for j in range((i // depth + 1) * depth, len(units)):
            found[i, j] = found[j, i] = measure(left, units[j])
    return found.view(len(models), depth, len(models), depth)


def cka_of(models: Sequence[Model]) -> Float[Tensor, "model layer model layer"]:
    """Debiased linear CKA between any two layers (Song et al. 2012, equation 5; Nguyen et al. 2021, equation 3).

    The Gram matrix of each layer is centred once, so that their number does not enter squared.

    Raises:
        ValueError: there are fewer than four rows.
    """
    centred = torch.stack([centred_gram(layer) for model in models for layer in model])
    products = centred @ centred.T
    size = products.diagonal().clamp(min=torch.finfo(products.dtype).tiny).sqrt()
    return (products / size[:, None] / size[None, :]).view(len(models), len(models[0]), len(models), len(models[0]))


def centred_gram(rows: Float[Tensor, "row width"]) -> Float[Tensor, " entry"]:
    """The Gram matrix without its diagonal, centred so that its products are unbiased (Székely and Rizzo 2014, definition 2)."""
    count = len(rows)
    if count < 4:
        raise ValueError(f"{count} rows: debiased CKA needs four")
    features = (rows - rows.mean(dim=0)).double()
    gram = (features @ features.T).fill_diagonal_(0)
    sums = gram.sum(dim=0)
    total = sums.sum() / ((count - 1) * (count - 2))
    centred = gram - sums[:, None] / (count - 2) - sums[None, :] / (count - 2) + total
    return centred.fill_diagonal_(0).flatten()
