"""Records side by side: a line for each case and metric, a column for each checkpoint, and means over groups of sets."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmclip_eval.results.foreign import MAIN_METRIC
from mmclip_eval.results.groups import GroupMean, group_means
from mmclip_eval.results.names import task_words
from mmclip_eval.results.record import Case, Record

ORDER = (
    "acc1",
    "acc5",
    "mean_per_class_recall",
    "mean_average_precision",
    "image_retrieval_recall@",
    "text_retrieval_recall@",
)
"""How the names of metrics begin, in the order of the columns; those of no such beginning follow by name."""


@dataclass(frozen=True)
class Cell:
    """A figure as it is shown."""

    value: str
    interval: str = ""
    beats_chance: bool = True


@dataclass(frozen=True)
class Line:
    """A metric, with the figure of each checkpoint; None where it was not measured."""

    metric: str
    cells: tuple[Cell | None, ...]
    chance: str = ""


@dataclass(frozen=True)
class Section:
    """What was measured in one way, or one group of sets."""

    title: str
    note: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that a table shows."""

    checkpoints: tuple[str, ...]
    sections: tuple[Section, ...]
    means: tuple[Section, ...]


def compare(records: Sequence[Record], groups: Mapping[str, Sequence[str]] | None = None) -> Comparison:
    """The table of distinct records, in the order of task, set and variant."""
    checkpoints = list(dict.fromkeys(record.checkpoint for record in records))
    cases = sorted({record.case for record in records})
    several = {case for case, count in Counter(case[:4] for case in cases).items() if count > 1}
    sections = [
        _section(case, case[:4] in several, [r for r in records if r.case == case], checkpoints) for case in cases
    ]
    means = [_mean_section(key, found, checkpoints) for key, found in _by_group(group_means(records, groups)).items()]
    return Comparison(labels_of(records), tuple(sections), tuple(means))


def labels_of(records: Sequence[Record]) -> tuple[str, ...]:
    """A name for each checkpoint, as short as tells it from the others."""
    first = {record.checkpoint: record for record in reversed(records)}
    order = list(dict.fromkeys(record.checkpoint for record in records))
    plain = [_plain(first[checkpoint]) for checkpoint in order]
    parts = [PurePosixPath(name).parts if os.sep in name else (name,) for name in plain]
    # Of RUN/checkpoints/STEP the run tells more than the step.
    least = [2 if "checkpoints" in own[-2:-1] else 1 for own in parts]
    parts = [tuple(part for part in own if part != "checkpoints") for own in parts]
    short = [str(PurePosixPath(*own[-few:])) for own, few in zip(parts, least, strict=True)]
    for depth in range(2, 1 + max(map(len, parts), default=0)):
        counts = Counter(short)
        short = [
            str(PurePosixPath(*own[-max(depth, few) :])) if counts[label] > 1 else label
            for label, own, few in zip(short, parts, least, strict=True)
        ]
    return tuple(short)


def _plain(record: Record) -> str:
    """The checkpoint's own name: its path, or model and tag as CLIP_benchmark joins them."""
    if os.sep in record.pretrained or record.model.startswith("local-dir:"):
        return record.pretrained.removeprefix("local-dir:") or record.model.removeprefix("local-dir:")
    return f"{record.model} {record.pretrained}".strip()


def metric_order(names: Sequence[str]) -> list[str]:
    """Names of metrics in the order of columns, whatever order they came in."""
    return sorted(dict.fromkeys(names), key=_rank)


def _rank(name: str) -> tuple[int, int, str, int]:
    stem, at, k = name.partition("@")
    known = next((number for number, begin in enumerate(ORDER) if name.startswith(begin)), len(ORDER))
    return (name == MAIN_METRIC, known, stem, int(k) if at and k.isdigit() else 0)


def _section(case: Case, tell_variant: bool, found: Sequence[Record], checkpoints: Sequence[str]) -> Section:
    task, dataset, split, language, variant = case
    by_checkpoint = {record.checkpoint: record for record in found}
    metrics = metric_order([name for record in found for name in record.metrics])
    lines = [_line(name, [by_checkpoint.get(checkpoint) for checkpoint in checkpoints]) for name in metrics]
    parts = [split if split != "test" else "", language if language != "en" else "", variant if tell_variant else ""]
    sizes = {str(record.facts["n_seen"]) for record in found if record.facts.get("n_seen")}
    note = f"n = {', '.join(sorted(sizes))}" if sizes else ""
    return Section(
        f"{dataset}, {task_words(task)}" + "".join(f", {part}" for part in parts if part), note, tuple(lines)
    )


def _line(metric: str, records: Sequence[Record | None]) -> Line:
    chances = {record.chance.get(metric) for record in records if record is not None} - {None}
    chance = shown(next(iter(chances))) if len(chances) == 1 else ""
    return Line(
        metric, tuple(None if r is None or metric not in r.metrics else _cell(r, metric) for r in records), chance
    )


def _cell(record: Record, metric: str) -> Cell:
    interval, chance = record.intervals.get(metric), record.chance.get(metric)
    if interval is None:
        return Cell(shown(record.metrics[metric]))
    low, high = interval
    beats = chance is None or (high < chance if record.less_is_better(metric) else low > chance)
    return Cell(shown(record.metrics[metric]), f"{shown(low)} to {shown(high)}", beats)


def shown(value: object) -> str:
    """A figure in four places, a rank or a setting as it is."""
    if value is None:
        return "not a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:,.4g}"


def _by_group(means: Sequence[GroupMean]) -> dict[tuple[str, str, str], list[GroupMean]]:
    found: dict[tuple[str, str, str], list[GroupMean]] = {}
    for mean in means:
        found.setdefault((mean.group, mean.task, mean.language), []).append(mean)
    return found


def _mean_section(key: tuple[str, str, str], means: Sequence[GroupMean], checkpoints: Sequence[str]) -> Section:
    group, task, language = key
    ordered = {mean.metric: mean for mean in means}
    names = metric_order(list(ordered))
    lines = [
        Line(name, tuple(Cell(shown(ordered[name].by_checkpoint[checkpoint])) for checkpoint in checkpoints))
        for name in names
    ]
    words = {ordered[name].words for name in names}
    note = next(iter(words)) if len(words) == 1 else "; ".join(f"{name}: {ordered[name].words}" for name in names)
    title = f"group {group}, {task_words(task)}" + (f", {language}" if language != "en" else "")
    return Section(title, note, tuple(lines))
