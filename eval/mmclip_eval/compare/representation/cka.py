"""Linear centred kernel alignment: how alike two models' similarities between examples are.

CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of K = XX^T and L = YY^T (Kornblith et al. 2019, equation 3). Its plain
estimate nears 1 for any two sets of features whose widths near the number of rows; the unbiased HSIC (Song et al. 2012,
equation 5) does not, so that is what is taken by default.
"""

import numpy as np
from jaxtyping import Float

from mmclip_eval.compare.representation.pair import Features, NoFigure, Pair


def linear_cka(x: Features, y: Features, debiased: bool = True) -> float:
    """Linear CKA of two sets of features [row width] of the same rows: 1 for the same up to rotation and scale.

    Debiased, it is about 0 for independent ones, and may lie a little below; otherwise in [0, 1].

    Raises:
        UserError: features that cannot be compared, see `Pair`.
    """
    return cka_of(Pair(x, y), debiased)


def cka_of(pair: Pair, debiased: bool = True) -> float:
    """`linear_cka` of a pair, over widths or over rows, whichever are fewer; both are the same number."""
    wide = max(pair.x.shape[1], pair.y.shape[1]) >= len(pair)
    inner = _over_rows(pair) if wide else _over_widths(pair)
    if not debiased:
        xy, xx, yy = inner
        return min(1.0, xy / float(np.sqrt(xx * yy)))
    lengths_x, lengths_y = (pair.x**2).sum(axis=1), (pair.y**2).sum(axis=1)
    xy = unbiased_hsic(inner[0], lengths_x, lengths_y)
    xx = unbiased_hsic(inner[1], lengths_x, lengths_x)
    yy = unbiased_hsic(inner[2], lengths_y, lengths_y)
    if min(xx, yy) <= 0:
        raise NoFigure(f"debiased CKA: {len(pair):,} rows are too few to tell the features from noise")
    return min(1.0, xy / float(np.sqrt(xx * yy)))


def unbiased_hsic(inner: float, lengths_x: Float[np.ndarray, " row"], lengths_y: Float[np.ndarray, " row"]) -> float:
    """HSIC_1 of Song et al. 2012, equation 5, of centred linear kernels.

    `inner` is the sum over all entries of K times L, `lengths` are their diagonals. Rows of centred kernels sum to zero, and
    what centring adds to a kernel without diagonal falls out of HSIC_1, so nothing else of the equation is left.
    """
    n = len(lengths_x)
    diagonal = float(lengths_x @ lengths_y)
    sums = float(lengths_x.sum()) * float(lengths_y.sum())
    return (inner - n / (n - 2) * diagonal + sums / ((n - 1) * (n - 2))) / (n * (n - 3))


def _over_widths(pair: Pair) -> tuple[float, float, float]:
    xy, xx, yy = ((product**2).sum() for product in (pair.xy, pair.xx, pair.yy))
    return float(xy), float(xx), float(yy)


def _over_rows(pair: Pair) -> tuple[float, float, float]:
    kernel, other = pair.x @ pair.x.T, pair.y @ pair.y.T
    return float((kernel * other).sum()), float((kernel**2).sum()), float((other**2).sum())
