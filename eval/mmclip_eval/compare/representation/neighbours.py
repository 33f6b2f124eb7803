"""Mutual nearest neighbours: how many of a row's neighbours two models agree on (Huh et al. 2024, appendix A)."""

import numpy as np

from mmclip_eval.compare.representation.grams import Gram, Grams, cosines
from mmclip_eval.compare.representation.pair import Features, NoFigure

NEIGHBOURS = 10
TIE = 1e-10
"""Cosines nearer than this are one: equal rows differ by rounding."""


def mutual_neighbours(x: Features, y: Features, neighbours: int = NEIGHBOURS) -> float:
    """Mean share of the `neighbours` nearest rows by cosine that both have in common, in [0, 1]; a row is not its own.

    Rows that tie for the last places share them, so that their order decides nothing. Independent features have about
    `neighbours` / (rows - 1), and the figure falls as rows get more.

    Raises:
        UserError: features that cannot be compared, see `Grams`.
        NoFigure: no fewer neighbours than other rows.
    """
    return neighbours_of(Grams.of(x, y), neighbours)


def neighbours_of(grams: Grams, neighbours: int = NEIGHBOURS) -> float:
    """`mutual_neighbours` from products of rows."""
    rows = len(grams.x)
    if neighbours >= rows - 1:
        raise NoFigure(f"{neighbours} neighbours among {rows} rows: expected more rows than that")
    shared = np.minimum(_places(grams.x, neighbours), _places(grams.y, neighbours))
    return float(shared.sum() / (rows * neighbours))


def _places(gram: Gram, neighbours: int) -> Gram:
    """[row, other]: 1 for a neighbour; the places that are left over are shared among those that tie for them."""
    similarity = cosines(gram)
    np.fill_diagonal(similarity, -np.inf)
    last = np.partition(similarity, -neighbours, axis=1)[:, -neighbours, None]
    nearer, tied = similarity > last + TIE, np.abs(similarity - last) <= TIE
    left = neighbours - nearer.sum(axis=1, keepdims=True)
    return nearer + tied * (left / tied.sum(axis=1, keepdims=True))
