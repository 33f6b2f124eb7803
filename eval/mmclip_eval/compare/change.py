"""`Change`: a figure that a model has by itself, before and after."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A figure of A and of B on the same samples."""

    before: float
    after: float
    low: float
    """95 % interval of `after - before`, samples resampled in pairs."""
    high: float
    ceiling: float
    """How far A is from itself: the mean distance of its figure on two random halves of the samples."""
    floor: float | None
    """How far the independent models are from A, on average; None without such models."""

    @property
    def value(self) -> float:
        """What came on top."""
        return self.after - self.before
