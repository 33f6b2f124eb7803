"""`Estimate`: one measured figure with what is needed to read it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % bootstrap interval, and what guessing would score."""

    value: float
    interval: tuple[float, float]
    chance: float | None
    """None where there is no guessing."""
    unit: Literal["fraction", "difference", "rank"] = "fraction"
    """A fraction lies in [0, 1], a difference of two in [-1, 1]; ranks count from 1."""
    lower_is_better: bool = False

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval lies on the better side of chance; also where there is no guessing."""
        if self.chance is None:
            return True
        low, high = self.interval
        return high < self.chance if self.lower_is_better else low > self.chance
