"""Results of several checkpoints as matrices: a table a task, a row a set and metric, a column a checkpoint."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmclip_eval.report.scores.metric_words import words_of
from mmclip_eval.results.comparison import metric_order, shown
from mmclip_eval.results.foreign import MAIN_METRIC
from mmclip_eval.results.names import task_words
from mmclip_eval.results.record import SETTINGS, Case, Record
from mmclip_eval.tasks.registry import TASKS


@dataclass(frozen=True)
class Cell:
    """A figure of one checkpoint."""

    value: float
    low: float = math.nan
    high: float = math.nan
    beats_chance: bool = True
    best: bool = False
    """Whether its whole interval lies on the better side of every other checkpoint's."""

    @property
    def text(self) -> str:
        """The figure as it is printed."""
        return shown(self.value)

    @property
    def interval(self) -> str:
        """Its interval as it is printed; empty where it has none."""
        return f"{shown(self.low)} to {shown(self.high)}" if math.isfinite(self.low) else ""


@dataclass(frozen=True)
class MetricRow:
    """One metric of one set; None where a checkpoint was not measured."""

    metric: str
    words: str
    cells: tuple[Cell | None, ...]
    chance: float | None
    lower_is_better: bool
    in_percent: bool


@dataclass(frozen=True)
class SetRows:
    """A set, measured in one way."""

    title: str
    note: str
    comparable: bool
    """Whether every checkpoint was measured on the same samples."""
    rows: tuple[MetricRow, ...]


@dataclass(frozen=True)
class Matrix:
    """A task."""

    anchor: str
    task: str
    sets: tuple[SetRows, ...]


def matrices(records: Sequence[Record]) -> list[Matrix]:
    """The tables of distinct records; columns are the checkpoints in the order in which they come first."""
    checkpoints = list(dict.fromkeys(record.checkpoint for record in records))
    order = list(dict.fromkeys(task().public_name for task in TASKS.values()))
    cases = sorted({record.case for record in records}, key=lambda case: (_place(case[0], order), case))
    ways = Counter(case[:4] for case in cases)
    by_task: dict[str, list[SetRows]] = {}
    for case in cases:
        own = {record.checkpoint: record for record in records if record.case == case}
        by_task.setdefault(case[0], []).append(_set(case, ways[case[:4]] > 1, [own.get(name) for name in checkpoints]))
    return [Matrix(f"task-{i}", task_words(task), tuple(sets)) for i, (task, sets) in enumerate(by_task.items(), 1)]


def _place(task: str, order: Sequence[str]) -> int:
    return order.index(task) if task in order else len(order)


def _set(case: Case, tell_variant: bool, found: Sequence[Record | None]) -> SetRows:
    _, dataset, split, language, variant = case
    there = [record for record in found if record is not None]
    parts = [split if split != "test" else "", language if language != "en" else "", variant if tell_variant else ""]
    sizes = sorted({str(record.facts["n_seen"]) for record in there if record.facts.get("n_seen")})
    same = len({record.fingerprint for record in there}) < 2 and len(sizes) < 2
    notes = [f"n = {', '.join(sizes)}"] if sizes else []
    notes += [] if same else ["not the same samples for every checkpoint, so none is marked as the best"]
    names = [name for record in there for name in record.scores if name not in SETTINGS and name != MAIN_METRIC]
    if any(record.origin != "mmclip" for record in there):
        names = metric_order(names)  # ours stand in an order that means something
    rows = tuple(_row(name, found, same) for name in dict.fromkeys(names))
    return SetRows(", ".join([dataset, *filter(None, parts)]), "; ".join(notes), same, rows)


def _row(metric: str, found: Sequence[Record | None], comparable: bool) -> MetricRow:
    there = [record for record in found if record is not None and metric in record.scores]
    less = any(record.less_is_better(metric) for record in there)
    cells = [_cell(record, metric, less) for record in found]
    best = best_of(cells, less) if comparable else None
    chances = {chance for record in there if (chance := record.chance.get(metric)) is not None}
    units = {record.units.get(metric) for record in there}
    ends = [abs(value) for cell in cells if cell is not None for value in (cell.value, cell.low, cell.high)]
    return MetricRow(
        metric,
        words_of(metric, in_its_task=True),
        tuple(None if cell is None else _marked(cell, place == best) for place, cell in enumerate(cells)),
        chances.pop() if len(chances) == 1 else None,
        less,
        units <= {"fraction", "difference"} if None not in units else max(filter(math.isfinite, ends)) <= 1,
    )


def _cell(record: Record | None, metric: str, less: bool) -> Cell | None:
    if record is None or metric not in record.scores:
        return None
    interval, chance = record.intervals.get(metric), record.chance.get(metric)
    if interval is None:
        return Cell(record.scores[metric])
    low, high = interval
    return Cell(record.scores[metric], low, high, chance is None or (high < chance if less else low > chance))


def _marked(cell: Cell, best: bool) -> Cell:
    return Cell(cell.value, cell.low, cell.high, cell.beats_chance, best)


def best_of(cells: Sequence[Cell | None], lower_is_better: bool) -> int | None:
    """The place whose interval lies wholly on the better side of all others; None where there is none, or no other."""
    there = [(place, cell) for place, cell in enumerate(cells) if cell is not None]
    if len(there) < 2 or any(not math.isfinite(cell.low) for _, cell in there):
        return None
    for place, cell in there:
        others = [other for at, other in there if at != place]
        if all(cell.high < other.low if lower_is_better else cell.low > other.high for other in others):
            return place
    return None
