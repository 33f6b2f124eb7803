"""What changed between two models, in units: which of A's come again in B, which are gone, and which are new.

Two fits to one and the same model find different units, often most of them (Paulo and Belrose 2025). So each model is fitted
twice, from different beginnings: a unit counts as lost only where a second fit to A has it and B has not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.sparse.autoencoder import SparseAutoencoder
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.fitting import fit
from mmclip_eval.sparse.matching import UnitMatching, match_units

Named = Callable[[str, int, int], None]
"""Called with what is fitted, the steps done and the steps in all."""
FITS = ("A", "A again", "B", "B again")


@dataclass(frozen=True)
class UnitComparison:
    """The units of A and B over the same pictures, beside those of second fits to each."""

    a: SparseAutoencoder
    b: SparseAutoencoder
    between: UnitMatching
    """Of A's first fit with B's first."""
    within_a: UnitMatching
    """Of A's first fit with its second: what nothing but another beginning does."""
    within_b: UnitMatching

    @property
    def share_kept(self) -> float:
        """Of A's units, those with a partner in B."""
        return self.between.share_kept

    @property
    def ceiling(self) -> float:
        """Of A's units, those with a partner in a second fit to A."""
        return self.within_a.share_kept

    @property
    def lost(self) -> Int[Tensor, " lost"]:
        """Units of A that a second fit to A has, and B has not."""
        stable = self.within_a.kept.a
        return stable[torch.isin(stable, self.between.lost)]

    @property
    def new(self) -> Int[Tensor, " new"]:
        """Units of B that a second fit to B has, and A has not."""
        stable = self.within_b.kept.a
        return stable[torch.isin(stable, self.between.new)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "between": self.between.to_json(),
            "ceiling": {"share_kept": self.ceiling, "mean_correlation": self.within_a.mean_correlation},
            "stable_units": {"a": len(self.within_a.kept.a), "b": len(self.within_b.kept.a)},
            "lost": self.lost.tolist(),
            "new": self.new.tolist(),
        }


def compare_units(
    a_rows: Float[Tensor, "a_row a_width"],
    b_rows: Float[Tensor, "b_row b_width"],
    settings: SparseConfig,
    device: torch.device | None = None,
    progress: Named | None = None,
) -> UnitComparison:
    """Fit each model twice to all rows, and match; equal rows keep every unit, exactly.

    Raises:
        UserError: there are not as many rows of A as of B, too few, or they cannot be fitted.
    """
    if len(a_rows) != len(b_rows):
        raise UserError(f"{len(a_rows)} rows of A and {len(b_rows)} of B: expected the same pictures in the same order")
    settings.check_rows(len(a_rows))
    again = replace(settings, seed=settings.seed + 1)

    def fitted(name: str, rows: Tensor, how: SparseConfig) -> SparseAutoencoder:
        told = None if progress is None else partial(progress, name)
        return fit(rows, how, device, told)

    models = [
        fitted(name, rows, how)
        for name, rows, how in zip(FITS, (a_rows, a_rows, b_rows, b_rows), (settings, again) * 2, strict=True)
    ]
    a, a_again, b, b_again = models
    return UnitComparison(
        a=a,
        b=b,
        between=match_units(a, b, a_rows, b_rows, settings.seed),
        within_a=match_units(a, a_again, a_rows, a_rows, settings.seed),
        within_b=match_units(b, b_again, b_rows, b_rows, settings.seed),
    )
