"""Features of the same rows by two models, centred, with the products that several measures share."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from mmclip.errors import UserError

LEAST_ROWS = 20
COLLAPSED = 1e-12
"""Share of the length of rows that varies between them, squared, below which a layer is taken to be constant."""

Features = Float[np.ndarray, "_ _"]
"""[row width]; that two have the same rows is checked, and told in words."""
Product = Float[np.ndarray, "_ _"]


class NoFigure(UserError):
    """A measure says nothing of these features; the message holds the reason."""


class Pair:
    """Two sets of features [row width] in fp64, each less its mean over rows, and their products.

    Raises:
        UserError: other rows, fewer than 20, or a value that is not finite.
        NoFigure: a layer has collapsed: all rows are one.
    """

    def __init__(self, x: Features, y: Features) -> None:
        check_rows(x, y)
        self.x, self.y = centred_rows(x), centred_rows(y)

    def __len__(self) -> int:
        """Rows."""
        return len(self.x)

    @cached_property
    def xx(self) -> Product:
        """Of the first with itself, over rows: [width width]."""
        return self.x.T @ self.x

    @cached_property
    def yy(self) -> Product:
        """Of the second with itself."""
        return self.y.T @ self.y

    @cached_property
    def xy(self) -> Product:
        """Of the first with the second."""
        return self.x.T @ self.y

    @property
    def size(self) -> float:
        """Frobenius norms of the two, multiplied."""
        return float(np.linalg.norm(self.x) * np.linalg.norm(self.y))

    def without(self, groups: Sequence[Int[np.ndarray, " _"]]) -> Iterator["Pair"]:
        """For each group of rows the pair that is left: its products are ours less the group's, so all cost about one."""
        for group in groups:
            left = object.__new__(Pair)
            keep = np.ones(len(self), dtype=bool)
            keep[group] = False
            gone_x, gone_y = self.x[group], self.y[group]
            count = int(keep.sum())
            mean_x, mean_y = -gone_x.sum(axis=0) / count, -gone_y.sum(axis=0) / count  # all rows sum to zero
            left.x, left.y = self.x[keep] - mean_x, self.y[keep] - mean_y
            left.xx = self.xx - gone_x.T @ gone_x - count * np.outer(mean_x, mean_x)
            left.yy = self.yy - gone_y.T @ gone_y - count * np.outer(mean_y, mean_y)
            left.xy = self.xy - gone_x.T @ gone_y - count * np.outer(mean_x, mean_y)
            yield left


def check_rows(x: Features, y: Features) -> None:
    """Refuse features that cannot be compared.

    Raises:
        UserError: other rows, fewer than 20, or a value that is not finite.
    """
    if len(x) != len(y):
        raise UserError(
            f"compare: features of {len(x):,} and of {len(y):,} rows: both models need the same examples in the same order"
        )
    if len(x) < LEAST_ROWS:
        raise UserError(f"compare: {len(x)} rows are too few to say anything: expected at least {LEAST_ROWS}")
    check_finite(x, "features of the first model")
    check_finite(y, "features of the second model")


def check_finite(features: Features, what: str) -> None:
    """Refuse features that are not finite.

    Raises:
        UserError: naming `what` and the first such row.
    """
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise UserError(
            f"compare: {what} are not finite in {int(bad.sum()):,} of {len(features):,} rows (the first is row "
            f"{int(bad.argmax())}): the weights hold NaN or Inf, or the precision overflows: try fp32"
        )


def centred_rows(features: Features) -> Features:
    """In fp64, less their mean over rows.

    Raises:
        NoFigure: all rows are one.
    """
    rows = features.astype(np.float64)
    length = float((rows**2).sum())
    rows -= rows.mean(axis=0)
    if float((rows**2).sum()) <= COLLAPSED * length:
        raise NoFigure(
            "the layer has collapsed: every row has the same features, which have no similarity to any other"
        )
    return rows
