"""`Estimate`: one measured figure with what is needed to read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A fraction in [0, 1], its 95 % bootstrap interval, and what guessing would score."""

    value: float
    interval: tuple[float, float]
    chance: float
