"""Drawings from the tables that tasks put into their results: classes, confusions, groups, calibration, shots, outliers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmclip_eval.analysis.confusions import MOST_NAMES, Pair, pairs_of
from mmclip_eval.metrics.wilson import wilson_interval
from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, Bin, Reference, Stage, bars, confusion, growth, histogram, reliability
from mmclip_eval.report.words import percent

ALL_CLASSES = 24
"""Classes up to which all of them are drawn in one figure."""
ENDS_OF_CLASSES = 10
"""Of more classes, so many of the best and of the worst."""
LEAST_OF_CLASS = 5
"""Pictures of a class whose accuracy tells something."""
MOST_GROUPS = 40
WORST_PAIRS = 12
WILSON = "Bars are Wilson's 95 % interval."

Content = Mapping[str, Any]
"""Of a result file."""
Entry = Mapping[str, Any]
"""A row of a table by its columns."""


@dataclass(frozen=True)
class Drawn:
    """What a result's tables show."""

    cards: tuple[Card, ...] = ()
    class_cards: tuple[Card, ...] = ()
    """Of the single classes."""
    pairs: tuple[Pair, ...] = ()
    """Classes that are mixed up, where there are too many for a matrix."""


def drawn_tables(content: Content, others: Sequence[Content] = (), *, with_confusion: bool = True) -> Drawn:
    """The drawings of one result; `others` are of the same weights and set, to compare with."""
    confused, pairs = _confusions(content) if with_confusion else ([], [])
    return Drawn(
        cards=(*_shots(content, others), *_reliability(content), *_groups(content), *_outliers(content)),
        class_cards=(*_classes(content), *confused),
        pairs=tuple(pairs),
    )


def _rows(content: Content, table: str, *columns: str) -> list[Entry]:
    """The rows of a table; none where it is not there or has other columns."""
    found = content.get("tables", {}).get(table, {"columns": [], "rows": []})
    if not set(columns) <= set(found["columns"]):
        return []
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def _classes(content: Content) -> list[Card]:
    """The best and the worst classes, or all where they are few."""
    rows = _rows(content, "per_class", "class", "samples", "correct")
    chance = 1 / max(1, len(rows))
    told = [row for row in rows if row["samples"] >= LEAST_OF_CLASS]
    if told:
        many = [_share(row["class"], row["correct"], row["samples"], chance) for row in told]
        left = f" {len(rows) - len(told)} classes of fewer than {LEAST_OF_CLASS} pictures are left out."
        caption = f"How often a picture of the class is recognised. {WILSON}{left if len(told) < len(rows) else ''}"
        return _best_and_worst("Accuracy", many, caption)
    rows = _rows(content, "per_class", "class", "average_precision")
    many = [Bar(row["class"], row["average_precision"]) for row in rows if row["average_precision"] is not None]
    return _best_and_worst("Average precision", many, "How well the class's name ranks the pictures that show it.")


def _best_and_worst(figure: str, many: list[Bar], caption: str) -> list[Card]:
    many.sort(key=lambda bar: -float(bar.value))
    if not many:
        return []
    if len(many) <= ALL_CLASSES:
        return [Card(bars(f"{figure} by class", many), caption)]
    best, worst = many[:ENDS_OF_CLASSES], many[-ENDS_OF_CLASSES:]
    of = f"of {len(many):,} classes"
    return [
        Card(bars(f"{figure}: the best {len(best)} {of}", best), caption),
        Card(bars(f"{figure}: the worst {len(worst)} {of}", worst), caption),
    ]


def _share(name: str, hits: int, samples: int, chance: float = float("nan"), marked: bool = False) -> Bar:
    return Bar(name, hits / samples, *wilson_interval(hits, samples), chance, marked)


def _confusions(content: Content) -> tuple[list[Card], list[Pair]]:
    names = [row["class"] for row in _rows(content, "per_class", "class", "samples")]
    rows = _rows(content, "confusion", "class", "predicted", "count")
    if not rows or len(names) < 2 or any(max(row["class"], row["predicted"]) >= len(names) for row in rows):
        return [], []
    triples = [(row["class"], row["predicted"], row["count"]) for row in rows]
    if len(names) > MOST_NAMES:
        return [], pairs_of(triples, names, WORST_PAIRS)
    counts = np.zeros((len(names), len(names)))
    for truth, said, count in triples:
        counts[truth, said] = count
    return [Card(confusion("What is taken for what", counts, names))], []


def _reliability(content: Content) -> list[Card]:
    """The reliability diagram."""
    rows = _rows(content, "reliability", "above", "up_to", "samples", "confidence", "accuracy")
    bins = [_bin(row) for row in rows if row["samples"]]
    if not bins:
        return []
    mean = content.get("mean_confidence")
    right = sum(one.accuracy * one.samples for one in bins) / sum(one.samples for one in bins)
    sure = f"On average the model is {percent(mean)} sure and {percent(right)} right. " if mean is not None else ""
    caption = (
        f"{sure}Dots on the dashes are as right as they are sure. Upright strokes are Wilson's 95 % interval; grey bars "
        "say how many pictures are in a bin."
    )
    return [Card(reliability("Calibration", bins), caption)]


def _bin(row: Entry) -> Bin:
    low, high = wilson_interval(round(row["accuracy"] * row["samples"]), row["samples"])
    above, up_to, confidence, accuracy = (float(row[key]) for key in ("above", "up_to", "confidence", "accuracy"))
    return Bin(above, up_to, row["samples"], confidence, accuracy, low, high)


def _groups(content: Content) -> list[Card]:
    """Groups from the best to the worst, which is marked."""
    rows = [row for row in _rows(content, "groups", "group", "samples", "acc1") if row["samples"]]
    if rows:
        worst = content.get("worst_group", {}).get("group")
        compared = [row for row in rows if row.get("compared", True)]
        chance = 1 / content["num_classes"] if content.get("num_classes") else float("nan")
        left = f" {len(rows) - len(compared)} groups are too small to be compared." if len(compared) < len(rows) else ""
        return _group_card("Accuracy by group", compared, "acc1", worst, f"The worst group is marked.{left}", chance)
    rows = [row for row in _rows(content, "groups", "group", "samples", "acc") if row["samples"]]
    return _group_card("Both right, by group", rows, "acc", None, "", float("nan"))


def _group_card(
    title: str, rows: Sequence[Entry], figure: str, worst: str | None, note: str, chance: float
) -> list[Card]:
    rows = sorted(rows, key=lambda row: -row[figure])
    more = max(0, len(rows) - MOST_GROUPS)
    rows = [*rows[: MOST_GROUPS // 2], *rows[-MOST_GROUPS // 2 :]] if more else rows
    drawn = [
        _share(
            f"{r['group']} ({r['samples']:,})",
            round(r[figure] * r["samples"]),
            r["samples"],
            chance,
            r["group"] == worst,
        )
        for r in rows
    ]
    note = f"{note} The {more} in the middle are left out." if more else note
    return [Card(bars(title, drawn), f"With the number of pictures. {WILSON} {note}".strip())] if drawn else []


def _shots(content: Content, others: Sequence[Content]) -> list[Card]:
    """Few-shot accuracy over the number of examples, beside zero-shot and the probe of all examples."""
    runs: dict[int, list[float]] = {}
    for row in _rows(content, "draws", "shots", "acc1"):
        runs.setdefault(row["shots"], []).append(row["acc1"])
    stages = []
    for shots, values in runs.items():
        name = f"lp_acc1@{shots}"
        if name in content["intervals"]:
            low, high = content["intervals"][name]
            stages.append(Stage(shots, float(content["metrics"][name]), float(low), float(high), tuple(values)))
    if not stages:
        return []
    wanted: tuple[tuple[str, str, str], ...] = (
        ("zero_shot_classification", "acc1", "zero-shot"),
        ("linear_probe", "lp_acc1", "all examples"),
    )
    found = [
        Reference(other["metrics"][metric], label)
        for task, metric, label in wanted
        for other in [next((o for o in others if o["task_type"] == task and metric in o["metrics"]), None)]
        if other is not None
    ]
    chances = [content["chance"].get(f"lp_acc1@{shots}") for shots in runs]
    found += [Reference(chances[-1], "chance")] if chances[-1] is not None else []
    draws = max(map(len, runs.values()))
    caption = (
        f"Dots are means over {draws} draws of the examples, which are the short strokes; upright strokes are 95 % "
        "intervals."
    )
    return [Card(growth("Accuracy with few examples", stages, found, x_label="examples a class"), caption)]


def _outliers(content: Content) -> list[Card]:
    """How the scores of the set's own pictures lie beside those of each other set."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for row in _rows(content, "scores", "score", "set", "above", "up_to", "samples"):
        found.setdefault((row["score"], row["set"]), []).append(row)
    cards = []
    for (score, name), rows in found.items():
        own = found.get((score, content["dataset"]))
        if own is None or name == content["dataset"]:
            continue
        edges = [own[0]["above"], *(row["up_to"] for row in own)]
        sides = [[row["samples"] for row in side] for side in (own, rows)]
        words = {"energy": "Energy", "softmax": "Logarithm of the best softmax"}.get(score, score)
        area = content["metrics"].get(f"{score}_auroc@{name}")
        told = (
            f"A picture of the set scores higher than one of {name} {percent(area)} of the time; 50 % is chance."
            if area is not None
            else ""
        )
        title = f"{words}, beside {name}"
        cards.append(
            Card(histogram(title, *sides, edges=edges, names=(content["dataset"], name), x_label="score"), told)
        )
    return cards
