"""Canonical correlations, and three ways to make one figure of them: their mean, SVCCA, and PWCCA.

They are the singular values between the two sets of features once each is white (Hotelling 1936).
"""

# scikit-learn's CCA finds them one by one, iterating; cca-zoo has neither SVCCA nor PWCCA, and brings tensorly; repsim, which
# has them, is one person's C++ without a wheel for our Python. What it takes is two eigendecompositions of numpy.

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from mmclip_eval.compare.representation.pair import Features, NoFigure, Pair, Product

KEPT_VARIANCE = 0.99
RANK = 1e-12
"""Of the variance along the strongest direction: below, a direction is rounding of fp32."""


@dataclass(frozen=True)
class Canonical:
    """White features of a pair, their directions by falling variance."""

    rows: int
    variance_x: Float[np.ndarray, " direction_x"]
    variance_y: Float[np.ndarray, " direction_y"]
    units_x: Float[np.ndarray, "direction_x width"]
    """How far each unit of the first features follows each of its directions."""
    cross: Float[np.ndarray, "direction_x direction_y"]
    """Correlations of the directions of one with those of the other."""

    @cached_property
    def falling(self) -> tuple[Float[np.ndarray, " direction"], Float[np.ndarray, "direction_x direction"]]:
        """Canonical correlations, and where each lies among the directions of the first features."""
        _refuse_few_rows(self.rows, *self.cross.shape)
        squares, axes = np.linalg.eigh(self.cross @ self.cross.T)  # half the time of singular vectors
        count = min(self.cross.shape)
        return np.sqrt(np.clip(squares[::-1][:count], 0, 1)), axes[:, ::-1][:, :count]


def canonical_correlations(x: Features, y: Features) -> Float[np.ndarray, " direction"]:
    """Falling, in [0, 1], as many as the lower rank of the two.

    Raises:
        UserError: features that cannot be compared, see `Pair`.
        NoFigure: no more rows than both have directions: some would be 1 whatever the features.
    """
    return canonical(Pair(x, y)).falling[0]


def mean_cca(x: Features, y: Features) -> float:
    """Mean canonical correlation: the same for any invertible linear map of either side; grows as rows get few."""
    return mean_cca_of(canonical(Pair(x, y)))


def svcca(x: Features, y: Features) -> float:
    """Mean canonical correlation of the strongest directions that hold 99 % of each side's variance (Raghu et al. 2017)."""
    return svcca_of(canonical(Pair(x, y)))


def pwcca(x: Features, y: Features) -> float:
    """Mean canonical correlation weighted by how much of the first features each accounts for (Morcos et al. 2018, section 3).

    Not symmetric. An invertible linear map of the second side changes nothing; one of the first changes the weights.
    """
    return pwcca_of(canonical(Pair(x, y)))


def canonical(pair: Pair) -> Canonical:
    """What all three are made of."""
    (variance_x, axes_x), (variance_y, axes_y) = _directions(pair.xx), _directions(pair.yy)
    white_x, white_y = axes_x / np.sqrt(variance_x), axes_y / np.sqrt(variance_y)
    units = (axes_x * np.sqrt(variance_x)).T
    return Canonical(len(pair), variance_x, variance_y, units, white_x.T @ pair.xy @ white_y)


def mean_cca_of(found: Canonical) -> float:
    """`mean_cca` of white features."""
    return float(found.falling[0].mean())


def svcca_of(found: Canonical) -> float:
    """`svcca` of white features."""
    kept_x, kept_y = _strongest(found.variance_x), _strongest(found.variance_y)
    _refuse_few_rows(found.rows, kept_x, kept_y)
    correlations = np.linalg.svd(found.cross[:kept_x, :kept_y], compute_uv=False)
    return float(np.clip(correlations, 0, 1).mean())


def pwcca_of(found: Canonical) -> float:
    """`pwcca` of white features."""
    correlations, axes = found.falling
    weights = np.abs(axes.T @ found.units_x).sum(axis=1)
    return float(weights @ correlations / weights.sum())


def _directions(product: Product) -> tuple[Float[np.ndarray, " direction"], Product]:
    variance, axes = np.linalg.eigh(product)
    variance, axes = variance[::-1], axes[:, ::-1]
    rank = int((variance > RANK * variance[0]).sum())
    return variance[:rank], axes[:, :rank]


def _strongest(variance: Float[np.ndarray, " direction"]) -> int:
    shares = variance.cumsum() / variance.sum()
    return int(np.searchsorted(shares, KEPT_VARIANCE)) + 1


def _refuse_few_rows(rows: int, directions_x: int, directions_y: int) -> None:
    if rows <= directions_x + directions_y:
        raise NoFigure(
            f"{rows:,} rows are too few for {directions_x:,} and {directions_y:,} directions: with no more rows than both "
            "together some canonical correlations are 1 whatever the features"
        )
