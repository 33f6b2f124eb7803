"""`SparseConfig`: which autoencoder is fitted, and how."""

from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError

LEAST_ROWS = 64
"""Fewer tell nothing of sparse units: most of them would fire on one row or none."""


@config
class SparseConfig:
    """A sparse autoencoder and its training; the defaults are for a few thousand embeddings."""

    form: Literal["topk", "l1"] = "topk"
    """`topk` keeps the k largest activations of a row (Gao et al. 2024), `l1` pays for their sum (Bricken et al. 2023)."""
    expansion: int = 2
    """Units for each dimension of the features, where `units` does not say how many."""
    units: int | None = None
    """How many there are in all."""
    k: int = 8
    """Of `topk`: units that may be active in a row."""
    l1: float = 0.1
    """Of `l1`: price of an activation of 1, where the mean squared length of a centred row is 1."""
    centre: Literal["mean", "geometric_median"] = "geometric_median"
    """What the pre-bias begins with."""
    steps: int = 1000
    batch_size: int = 256
    """Rows of a step; all of them where there are fewer."""
    lr: float = 3e-3
    """Adam's, falling to zero over the last fifth of the steps."""
    dead_after_passes: float = 2.0
    """A unit that fired in none of so many passes over the fitted rows is taken for dead while it is trained."""
    aux_weight: float = 1 / 32
    """Of `topk`: weight of the error that dead units are given to explain (Gao et al. 2024, appendix A.2); 0 for none."""
    resample_times: int = 4
    """Of `l1`: how often within the first half of the steps dead units begin anew at a badly explained row; 0 for never."""
    held_out_share: float = 0.25
    """Of the rows, on which every figure is measured and none is fitted."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no autoencoder can be.

        Raises:
            UserError: naming the field.
        """
        for name in ("expansion", "k", "steps", "batch_size"):
            _at_least_one(name, getattr(self, name))
        if self.units is not None:
            _at_least_one("units", self.units)
        if not 0 < self.held_out_share < 1:
            raise UserError(f"held_out_share={self.held_out_share}: expected a share between 0 and 1, such as 0.25")
        for name in ("l1", "lr", "dead_after_passes"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: expected a number above 0")
        for name in ("aux_weight", "resample_times"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: expected 0 (for none) or more")

    def units_of(self, width: int) -> int:
        """How many units there are for features of `width`.

        Raises:
            UserError: a row may have more active units than there are.
        """
        units = self.units or self.expansion * width
        if self.form == "topk" and self.k > units:
            raise UserError(
                f"k={self.k} active units of {units}: expected at most as many as there are; give a smaller k or more units"
            )
        return units

    def check_rows(self, rows: int) -> None:
        """Refuse too few rows.

        Raises:
            UserError: saying how many there are and how many are needed.
        """
        if rows < LEAST_ROWS:
            raise UserError(
                f"{rows} rows of features: expected {LEAST_ROWS} at least, better some thousands; take a larger set"
            )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name}={value}: expected a whole number from 1 on")
