"""What fine-tuning cost: figures of a suite that should stay, before and after, with the interval of each drop."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from mmclip.errors import UserError
from mmclip_eval.results.headline import BOTH_WAYS, HEADLINES
from mmclip_eval.results.result import EvalResult

KEPT_METRICS = (*HEADLINES, *(f"{way}1" for way in BOTH_WAYS))
"""The figures that a task is remembered by, all of them fractions of which more is better."""


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval."""

    name: str
    """`set/metric`, or `set/task/metric` where several tasks of the set have the metric."""
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Drop:
    """A figure before and after; positive is what was lost."""

    name: str
    before: float
    after: float
    drop: float
    low: float
    high: float
    """Ends of the 95 % interval of the drop: MOVER (Zou and Donner 2008) of the two intervals, as if the samples were not the
    same ones, so that it is wider than a paired one would be."""


@dataclass(frozen=True)
class Forgetting:
    """The drops of all figures, and their mean."""

    figures: tuple[Drop, ...]
    mean: Drop

    def beyond(self, most: float) -> list[Drop]:
        """What says that more than `most` was lost: the mean, and each figure whose whole interval lies above it."""
        found = [one for one in self.figures if one.low > most]
        return [self.mean, *found] if self.mean.drop > most else found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"figures": [asdict(one) for one in self.figures], "mean": asdict(self.mean)}


def figures_of(results: Iterable[EvalResult]) -> list[Figure]:
    """The figures that the sets of `results` are remembered by."""
    found: dict[str, Figure] = {}
    for result in results:
        for metric in KEPT_METRICS:
            if metric in result.metrics:
                estimate = result.metrics[metric]
                name = f"{result.dataset}/{metric}"
                name = f"{result.dataset}/{result.task}/{metric}" if name in found else name
                found[name] = Figure(name, estimate.value, *estimate.interval)
    return list(found.values())


def forgetting(before: Sequence[Figure], after: Sequence[Figure]) -> Forgetting:
    """Compare the figures of the same names.

    Raises:
        UserError: there are none, or the names are not the same.
    """
    later: Mapping[str, Figure] = {one.name: one for one in after}
    missing = sorted({one.name for one in before} ^ set(later))
    if not before or missing:
        raise UserError(
            f"the retained suite has figures before and after that do not match ({', '.join(missing) or 'none at all'}): "
            "expected the same sets and tasks, with a figure such as acc1 or image_retrieval_recall@1"
        )
    drops = tuple(_drop(one, later[one.name]) for one in before)
    return Forgetting(drops, _mean(drops))


def forgetting_table(found: Forgetting) -> Table:
    """One row a figure and one for the mean; drops whose interval lies above zero stand out."""
    table = Table(title="retained: what the weights could do before, and after")
    for number, column in enumerate(("figure", "before", "after", "drop", "95 % interval")):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold")
    for one in found.figures:
        table.add_row(*map(Text, _cells(one)), style="bold red" if one.low > 0 else "")
    table.add_section()
    table.add_row(*map(Text, _cells(found.mean)), style="bold")
    return table


def told(one: Drop) -> str:
    """A drop in one line."""
    return f"{one.name} {one.before:.4f} -> {one.after:.4f} (drop {one.drop:+.4f}, {one.low:+.4f} to {one.high:+.4f})"


def _drop(before: Figure, after: Figure) -> Drop:
    drop = before.value - after.value
    below = math.hypot(before.value - before.low, after.high - after.value)
    above = math.hypot(before.high - before.value, after.value - after.low)
    return Drop(before.name, before.value, after.value, drop, drop - below, drop + above)


def _mean(drops: Sequence[Drop]) -> Drop:
    count = len(drops)
    before, after, drop = (sum(getattr(one, name) for one in drops) / count for name in ("before", "after", "drop"))
    below = math.hypot(*(one.drop - one.low for one in drops)) / count
    above = math.hypot(*(one.high - one.drop for one in drops)) / count
    return Drop("mean", before, after, drop, drop - below, drop + above)


def _cells(one: Drop) -> tuple[str, ...]:
    interval = f"{one.low:+.4f} to {one.high:+.4f}"
    return one.name, f"{one.before:.4f}", f"{one.after:.4f}", f"{one.drop:+.4f}", interval
