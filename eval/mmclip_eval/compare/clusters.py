"""Groups of pictures by k-means and by Gaussian mixtures, and how far two groupings of the same pictures agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mmclip_eval.metrics.bootstrap import LEVEL, SEED

Labels = NDArray[np.int64]
Rows = NDArray[np.float64]
Group = Callable[[Rows, int], Labels]
"""Groups rows by a seed."""
REPLICATES = 200
"""Of the bootstrap: the mutual information of each is as dear as the figure itself."""
BEGINNINGS = 4
"""Of each grouping, of which the best is taken."""
PERMUTATIONS = 10
COVARIANCE_FLOOR = 1e-4
"""Added to the variances of a component, as a share of the mean variance: a component on one picture would fit it perfectly."""


@dataclass(frozen=True)
class Agreement:
    """How far two groupings agree, 1 where they are the same but for names, near 0 where they are independent."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval over the pictures."""
    ceiling: float
    """Of A grouped from one beginning and from others: far below 1, there are no groups that could be found again."""
    floor: float
    """Of A and of B with its pictures permuted."""

    @property
    def position(self) -> float:
        """Where it lies between floor (0) and ceiling (1), clipped."""
        reach = self.ceiling - self.floor
        return (
            float(np.clip((self.value - self.floor) / reach, 0, 1)) if reach > 0 else float(self.value >= self.ceiling)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = ("value", "low", "high", "ceiling", "floor")
        return {**{name: getattr(self, name) for name in names}, "position": self.position}


def k_means(clusters: int) -> Group:
    """Labels of k-means, the largest cluster 0."""

    def group(rows: Rows, seed: int) -> Labels:
        from sklearn.cluster import KMeans

        distinct = len(np.unique(rows.round(9), axis=0))
        fitted = KMeans(min(clusters, distinct), n_init=BEGINNINGS, random_state=seed).fit(rows)  # pyright: ignore[reportArgumentType]  # untyped
        return by_size(np.asarray(fitted.labels_))

    return group


def mixture(components: int) -> Group:
    """Labels of a Gaussian mixture with full covariances, the largest component 0."""

    def group(rows: Rows, seed: int) -> Labels:
        return by_size(np.asarray(fit_mixture(rows, components, seed).predict(rows)))

    return group


def fit_mixture(rows: Rows, components: int, seed: int) -> Any:
    """A mixture begun at k-means; it is taken as it is where the rounds end before it has settled."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a map of pictures needs no last digit
        floor = COVARIANCE_FLOOR * max(float(rows.var(axis=0).mean()), 1e-12)
        return GaussianMixture(components, reg_covar=floor, n_init=BEGINNINGS, random_state=seed).fit(rows)


def criterion(rows: Rows, most: int) -> tuple[tuple[int, float], ...]:
    """Bayesian information criterion of mixtures of 1 to `most` components, for each row: lower is better."""
    return tuple((count, float(fit_mixture(rows, count, 0).bic(rows)) / len(rows)) for count in range(1, most + 1))


def by_size(labels: Int[np.ndarray, " row"]) -> Labels:
    """The same groups, numbered from the largest on."""
    kinds, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(kinds), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(kinds))
    return rank[places]


def renumbered(labels: Labels, like: Labels) -> Labels:
    """`labels` with each group numbered as the group of `like` that shares most pictures with it, one to one.

    Groups that find no partner get the numbers that are left.
    """
    from scipy.optimize import linear_sum_assignment

    shared = _shared(labels, like)
    own, other = linear_sum_assignment(shared, maximize=True)
    number = dict(zip(own.tolist(), other.tolist(), strict=True))
    left = iter(sorted(set(range(max(shared.shape))) - set(number.values())))
    named = np.array([number[group] if group in number else next(left) for group in range(len(shared))])
    return named[labels].astype(np.int64)


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Share of pairs that are together or apart in both, less what chance would give (Hubert and Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))


def adjusted_mutual_information(a: Labels, b: Labels) -> float:
    """Mutual information less what chance would give, over the mean entropy (Vinh, Epps and Bailey 2010)."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(a, b))


def agreement(score: Callable[[Labels, Labels], float], a: Labels, b: Labels, again: Sequence[Labels]) -> Agreement:
    """The agreement of A and B with its interval, beside that of A with A grouped `again`.

    Two halves of A's dimensions would be too low a ceiling: independent models agree more than they do.
    """
    generator = np.random.Generator(np.random.Philox(key=SEED))
    drawn = (generator.integers(len(a), size=len(a)) for _ in range(REPLICATES))
    replicates = [score(a[rows], b[rows]) for rows in drawn]
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    floor = np.mean([score(a, b[generator.permutation(len(b))]) for _ in range(PERMUTATIONS)])
    ceiling = np.mean([score(a, labels) for labels in again])
    return Agreement(score(a, b), float(low), float(high), float(ceiling), float(floor))


def _shared(a: Labels, b: Labels) -> Float[np.ndarray, "a b"]:
    counts = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(counts, (a, b), 1)
    return counts
