"""Which units of one model's autoencoder another model's has too, by how they fire over the same pictures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.metrics.bootstrap import accuracy_interval
from mmclip_eval.sparse.autoencoder import SparseAutoencoder

PARTNER = 0.5
"""Least correlation of partners, where the permuted rows do not ask for more."""
LEAST_ROWS = 5
"""A unit that fires on fewer rows is not matched: one shared picture would correlate it with anything."""
PERMUTATIONS = 5
FLOOR_QUANTILE = 0.99


@dataclass(frozen=True)
class Partners:
    """A unit of each side, and the correlation of their activations over the rows."""

    a: Int[Tensor, " pair"]
    b: Int[Tensor, " pair"]
    correlation: Float[Tensor, " pair"]


@dataclass(frozen=True)
class UnitMatching:
    """What became of the units of A in B; all numbers are those of units in their own autoencoder."""

    kept: Partners
    """The highest correlation first."""
    lost: Int[Tensor, " lost"]
    """Units of A without a partner."""
    new: Int[Tensor, " new"]
    """Units of B without a partner."""
    rare: tuple[int, int]
    """Units of A and of B that fire on too few rows to be matched; they are neither lost nor new."""
    mean_correlation: float
    """Of the best one-to-one assignment, partners or not."""
    floor: float
    """The same where the rows of B are permuted, so that nothing belongs together."""
    least: float
    """Correlation from which on two units are partners."""

    @property
    def share_kept(self) -> float:
        """Of A's units that fire often enough."""
        return len(self.kept.a) / max(1, len(self.kept.a) + len(self.lost))

    @property
    def share_kept_interval(self) -> tuple[float, float]:
        """95 % interval of `share_kept` over A's units."""
        is_kept = torch.arange(len(self.kept.a) + len(self.lost)) < len(self.kept.a)
        return accuracy_interval(is_kept) if len(is_kept) else (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kept": [
                {"a": a, "b": b, "correlation": r}
                for a, b, r in zip(
                    self.kept.a.tolist(), self.kept.b.tolist(), self.kept.correlation.tolist(), strict=True
                )
            ],
            "lost": self.lost.tolist(),
            "new": self.new.tolist(),
            "rare": {"a": self.rare[0], "b": self.rare[1], "fires_on_fewer_rows_than": LEAST_ROWS},
            "share_kept": self.share_kept,
            "share_kept_interval": list(self.share_kept_interval),
            "mean_correlation": self.mean_correlation,
            "mean_correlation_of_permuted_rows": self.floor,
            "least_correlation_of_partners": self.least,
        }


def match_units(
    a: SparseAutoencoder,
    b: SparseAutoencoder,
    a_rows: Float[Tensor, "a_row a_width"],
    b_rows: Float[Tensor, "b_row b_width"],
    seed: int = 0,
) -> UnitMatching:
    """`match_activations` of what each autoencoder makes of its own model's features of the same pictures.

    Raises:
        UserError: there are not as many rows of A as of B.
    """
    activations = [
        torch.cat([block.cpu() for _, block in model.encoded(rows)]) for model, rows in ((a, a_rows), (b, b_rows))
    ]
    return match_activations(*activations, seed=seed)


def match_activations(
    a: Float[Tensor, "a_row a_unit"], b: Float[Tensor, "b_row b_unit"], seed: int = 0
) -> UnitMatching:
    """Assign units one to one by the highest summed correlation (Hungarian), and call those partners that are alike enough.

    Enough is `PARTNER`, and more than nearly all pairs reach that are assigned after the rows of B were permuted.

    Raises:
        UserError: there are not as many rows of A as of B.
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} rows of A and {len(b)} of B: expected the same pictures in the same order")
    alive_a, alive_b = (((side > 0).sum(dim=0) >= LEAST_ROWS).nonzero()[:, 0] for side in (a, b))
    rare = (a.shape[1] - len(alive_a), b.shape[1] - len(alive_b))
    left, right = (_standardised(side[:, alive]) for side, alive in ((a, alive_a), (b, alive_b)))
    pairs_a, pairs_b, correlation = _assigned(left, right)
    generator = np.random.Generator(np.random.Philox(key=seed))
    permuted = [_assigned(left, right[generator.permutation(len(right))])[2] for _ in range(PERMUTATIONS)]
    chance = np.concatenate(permuted)
    least = max(PARTNER, float(np.quantile(chance, FLOOR_QUANTILE))) if len(chance) else PARTNER
    order = np.argsort(-correlation, kind="stable")
    order = order[correlation[order] >= least]
    kept_a, kept_b = alive_a[pairs_a[order]], alive_b[pairs_b[order]]
    return UnitMatching(
        kept=Partners(kept_a, kept_b, torch.from_numpy(correlation[order])),
        lost=alive_a[~torch.isin(alive_a, kept_a)],
        new=alive_b[~torch.isin(alive_b, kept_b)],
        rare=rare,
        mean_correlation=_mean(correlation),
        floor=_mean(chance),
        least=least,
    )


def _standardised(activations: Tensor) -> NDArray[np.float64]:
    """Columns of mean 0 and length 1, so that a product of two is their correlation; constant ones are zero."""
    columns = activations.double().numpy()
    columns = columns - columns.mean(axis=0)
    length = np.sqrt((columns**2).sum(axis=0))
    return columns / np.where(length > 1e-12, length, np.inf)


def _assigned(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    from scipy.optimize import linear_sum_assignment

    correlation = a.T @ b
    of_a, of_b = linear_sum_assignment(correlation, maximize=True)
    return of_a, of_b, correlation[of_a, of_b]


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
