"""Orthogonal Procrustes: how near one model's features come to another's by a rotation (Schönemann 1966; Ding et al. 2021).

Both are centred and scaled to Frobenius norm 1; widths may differ, as if the narrower had columns of zeros.
"""

import numpy as np

from mmclip_eval.compare.representation.pair import Features, Pair


def procrustes_similarity(x: Features, y: Features) -> float:
    """Largest tr(X R Y^T) over rotations and mirrorings R, in [0, 1]: the nuclear norm of X^T Y.

    `scipy.spatial.procrustes`, which also scales, has 1 less its square.

    Raises:
        UserError: features that cannot be compared, see `Pair`.
    """
    return procrustes_of(Pair(x, y))


def procrustes_distance(x: Features, y: Features) -> float:
    """Frobenius norm of X R - Y at the best R, in [0, sqrt(2)]: a metric between features up to rotation and scale."""
    return float(np.sqrt(2 - 2 * procrustes_similarity(x, y)))


def procrustes_of(pair: Pair) -> float:
    """`procrustes_similarity` of a pair."""
    return min(1.0, float(np.linalg.svd(pair.xy, compute_uv=False).sum()) / pair.size)
