"""Similarities that nothing is trained for, on the same questions as the learned one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip_eval.compare.representation.cca import pwcca, svcca
from mmclip_eval.compare.representation.cka import linear_cka
from mmclip_eval.compare.representation.cka_matrix import cka_matrix
from mmclip_eval.compare.representation.neighbours import mutual_neighbours
from mmclip_eval.compare.representation.pair import Features, NoFigure
from mmclip_eval.compare.representation.procrustes import procrustes_similarity
from mmclip_eval.compare.representation.rsa import rsa
from mmclip_eval.contrasim.fit import Model

CKA = "debiased CKA"


@dataclass(frozen=True)
class Measure:
    """How alike two sets of rows are that stand for the same examples; more is more alike."""

    of: Callable[[Features, Features], float]
    """May raise `NoFigure`: then the two are not alike at all."""
    is_symmetric: bool = True
    same_width: bool = False
    """Whether both sets need the same axes."""


def dot(left: Features, right: Features) -> float:
    """Mean inner product of the rows."""
    return float((left * right).sum(axis=1).mean())


def norm(left: Features, right: Features) -> float:
    """Minus the root mean square of the distances of the rows."""
    return -float(((left - right) ** 2).sum(axis=1).mean() ** 0.5)


PLAIN: Mapping[str, Measure] = MappingProxyType(
    {"dot": Measure(dot, same_width=True), "norm": Measure(norm, same_width=True)}
)
"""The two plain ones of the paper, which cost next to nothing."""
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "Procrustes": Measure(procrustes_similarity),
        "mutual k-NN": Measure(mutual_neighbours),
        "RSA": Measure(rsa),
        "SVCCA": Measure(svcca),
        "PWCCA": Measure(pwcca, is_symmetric=False),
        **PLAIN,
    }
)
"""All but CKA, which is measured in any case; as `mmclip compare` has them. Of wide layers they take minutes."""
SET_CKA = Measure(linear_cka)
"""Debiased CKA of two small sets."""
SET_MEASURES: Mapping[str, Measure] = MappingProxyType({k: v for k, v in MEASURES.items() if "CCA" not in k})
"""Those that say something of 64 rows: canonical correlations need more rows than dimensions."""


def similarity_of(models: Sequence[Model], measure: Measure) -> Float[Tensor, "model layer model layer"]:
    """A measure between the layers of any two different models; minus infinity where it has no figure."""
    units = [layer.double().numpy() for model in models for layer in model]
    depth = len(models[0])
    found = torch.full((len(units), len(units)), -torch.inf, dtype=torch.float64)
    for i, left in enumerate(units):
        for j, right in enumerate(units):
            if i // depth == j // depth or (measure.is_symmetric and j < i):
                continue
            found[i, j] = figure_of(measure, left, right)
            if measure.is_symmetric:
                found[j, i] = found[i, j]
    return found.view(len(models), depth, len(models), depth)


def cka_of(models: Sequence[Model]) -> Float[Tensor, "model layer model layer"]:
    """Debiased linear CKA between any two layers; minus infinity where one has collapsed."""
    units = [layer.double().numpy() for model in models for layer in model]
    found = torch.from_numpy(cka_matrix(units, units)).nan_to_num(nan=-torch.inf)
    return found.view(len(models), len(models[0]), len(models), len(models[0]))


def figure_of(measure: Measure, left: Features, right: Features) -> float:
    """The figure, or minus infinity where there is none: what has no similarity is never the most similar."""
    try:
        return measure.of(left, right)
    except NoFigure:
        return -float("inf")
