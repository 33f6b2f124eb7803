"""The one figure that a result is chosen by, and its mean over sets: for sweeps, soups and stopping, never for a table.

A table has no mean over different metrics (`groups`). A choice between weights needs one number, and this is it, with its
parts named wherever it is shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mmclip_eval.results.result import EvalResult

HEADLINES = (
    "acc1",
    "mean_average_precision",
    "acc",
    "acc_wg",
    "lp_acc1",
    "tip_acc1",
    "knn_acc1",
    "shifted_acc1",
)
"""The first of them that a result has is its headline; retrieval has the mean of both ways."""
BOTH_WAYS = ("image_retrieval_recall@", "text_retrieval_recall@")


@dataclass(frozen=True)
class Headline:
    """A fraction of which more is better, with its 95 % interval."""

    dataset: str
    task: str
    metric: str
    value: float
    low: float
    high: float

    @property
    def name(self) -> str:
        """Set and task."""
        return f"{self.dataset}, {self.task}"


def headline(result: EvalResult) -> Headline | None:
    """The headline of a result; None where none of its figures is a score, as of a calibration."""
    both = _both_ways(result)
    if both is not None:
        return both
    name = next((name for name in HEADLINES if name in result.metrics), None)
    if name is None:
        return None
    found = result.metrics[name]
    return Headline(result.dataset, result.task, name, found.value, *found.interval)


def headlines(results: Sequence[EvalResult]) -> tuple[Headline, ...]:
    """The headlines of those results that have one."""
    return tuple(found for result in results if (found := headline(result)) is not None)


def mean_of(parts: Sequence[Headline]) -> Headline:
    """Their mean; the interval takes the sets as independent draws, so that their half widths add up in squares."""
    value = fmean(part.value for part in parts)
    below = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
    above = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
    return Headline("mean", "", f"mean of {len(parts)}", value, value - below, value + above)


def _both_ways(result: EvalResult) -> Headline | None:
    """At the smallest depth that was measured; the interval is the mean of both, which is never too narrow."""
    depths = sorted(int(name.rpartition("@")[2]) for name in result.metrics if name.startswith(BOTH_WAYS[0]))
    if not depths:
        return None
    ways = [result.metrics[f"{way}{depths[0]}"] for way in BOTH_WAYS]
    low, high = (fmean(way.interval[end] for way in ways) for end in (0, 1))
    return Headline(
        result.dataset, result.task, f"recall@{depths[0]} both ways", fmean(w.value for w in ways), low, high
    )
