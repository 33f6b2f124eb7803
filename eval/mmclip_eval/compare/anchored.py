"""`Anchored`: a figure between two models, with what it is when nothing has changed and when everything has."""

import math
from dataclasses import dataclass

PERMUTED = "permuted pairs"


def floor_words(independent: int) -> str:
    """What a floor is of, by the number of independent models."""
    if not independent:
        return PERMUTED
    return f"{independent} independent model{'s' if independent > 1 else ''}"


@dataclass(frozen=True)
class Anchored:
    """A figure that means little by itself, between the two that give it a meaning."""

    value: float
    low: float
    high: float
    """`low` and `high`: its 95 % interval over examples."""
    ceiling: float
    """What the first model reaches with itself: equal weights are at the ceiling."""
    floor: float
    """Its mean between the first model and independent ones, else between rows of the two that do not belong together."""
    floor_from: str
    """What the floor is of: `permuted pairs`, or `3 independent models`."""
    halves: float | None = None
    """What it is between two random halves of the first model's units, as if they were two models; None where half of the
    units cannot stand for all."""

    @property
    def position(self) -> float:
        """Where `value` lies from floor (0) to ceiling (1), clipped: equal weights give 1, whatever the measure's scale.

        Also of a distance, whose ceiling lies below its floor. nan where the two anchors are one, or a figure is nan.
        """
        span = self.ceiling - self.floor
        if not math.isfinite(span) or span == 0 or math.isnan(self.value):
            return math.nan
        return min(1.0, max(0.0, (self.value - self.floor) / span))
