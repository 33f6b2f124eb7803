"""Both sides in turn, A B A B, so that neither has the quiet half of the hour."""

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleave(sides: Mapping[str, Callable[[int], T]], repetitions: int) -> dict[str, list[T]]:
    """Call every side once a round, in their order; a side gets the number of the round."""
    measured: dict[str, list[T]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name, measure in sides.items():
            measured[name].append(measure(repetition))
    return measured
