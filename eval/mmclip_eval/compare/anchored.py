"""`Anchored`: a figure between two models, with what it is when nothing has changed and when everything has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Anchored:
    """A figure with its 95 % interval over examples."""

    value: float
    low: float
    high: float
    ceiling: float
    """Of A with itself, on halves of the examples: what two models with the same weights reach."""
    floor: float
    """The mean over independent models, else of permuted pairs."""
    floor_from: str
    """`permuted pairs` or `3 independent models`."""
    halves: float | None = None
    """Of two random halves of A's units, as if they were two models; None where half of them cannot stand for all."""

    @property
    def position(self) -> float:
        """Where between floor (0) and ceiling (1) the figure lies; beyond them it is clipped."""
        span = self.ceiling - self.floor
        if span == 0:
            return 1.0 if self.value == self.ceiling else 0.0
        return min(1.0, max(0.0, (self.value - self.floor) / span))
