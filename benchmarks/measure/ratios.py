"""From paired measurements to one row: medians of both sides, and the ratio with its spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table; its fields are the keys of the JSON file."""

    case: str
    metric: str
    ours: float
    """Median over the repetitions, in the metric's own unit."""
    peer: float
    peer_name: str
    ratio: float
    """Median over the pairs; above 1 mmclip is better, whichever way the metric points."""
    ratio_low: float
    """The lowest pair."""
    ratio_high: float
    """The highest pair."""


def compare(
    case: str, metric: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, *, higher_is_better: bool
) -> Row:
    """The row of one metric; `ours[i]` and `peer[i]` were measured one after the other and form a pair.

    Pairs, because what else the machine does changes slowly: the two halves of a pair share it, their quotient does not
    feel it. With a handful of pairs the extremes are an honest spread, quantiles are not.

    Raises:
        ValueError: the sides do not pair up, or a value is not positive: a ratio with zero says nothing, so the metric
            must be turned round (the share that came, not the share that was missed).
    """
    if not ours or len(ours) != len(peer):
        raise ValueError(
            f"{case}, {metric}: {len(ours)} measurements of ours and {len(peer)} of the peer do not pair up"
        )
    for value in (*ours, *peer):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{case}, {metric}: {value} has no ratio; state the metric so that it is positive")
    pairs = [a / b if higher_is_better else b / a for a, b in zip(ours, peer, strict=True)]
    return Row(case, metric, median(ours), median(peer), peer_name, median(pairs), min(pairs), max(pairs))
