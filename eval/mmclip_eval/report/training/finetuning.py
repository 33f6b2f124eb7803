"""Chapters of a fine-tuning: what was kept of what the weights could do, and what few labels are worth."""

from typing import Any

from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Dot, Line, Row, curve, dots
from mmclip_eval.report.scores.metric_words import words_of
from mmclip_eval.report.training.curves import Chapter
from mmclip_eval.report.training.history import History

LABELS = "labels a class"


def finetuning_chapters(history: History) -> list[Chapter]:
    """Those of which the run folder has figures."""
    found = [
        _retained(history.forgetting) if history.forgetting is not None else None,
        _low_label(history.low_label) if history.low_label is not None else None,
    ]
    return [chapter for chapter in found if chapter is not None]


def _retained(table: dict[str, Any]) -> Chapter:
    rows = [*table["figures"], table["mean"]]
    drawn = [Row(_title(one["name"]), [Dot(one["before"]), Dot(one["after"])]) for one in rows]
    drops = [Row(_title(one["name"]), [Dot(one["drop"], one["low"], one["high"])]) for one in rows]
    most, mean = table["max_forgetting"], table["mean"]
    guard = "" if most is None else f" At most {100 * most:.1f} points were allowed."
    held = "" if most is None else (" The guard did not hold." if table["beyond"] else " The guard held.")
    return Chapter(
        "retained",
        "What was kept",
        f"Figures of a suite that the run was not for, before the first step and at the end. In the mean "
        f"{100 * abs(mean['drop']):.1f} points were {'lost' if mean['drop'] > 0 else 'gained'}.{guard}{held}",
        (
            Card(dots("Before and after", drawn, ("before", "after"))),
            Card(
                dots("Drop", drops, ("lost",), subtitle="what was lost, with its 95 % interval"),
                "Below zero is a gain. The interval takes the two measurements for independent, and is wide for that.",
            ),
        ),
    )


def _low_label(table: dict[str, Any]) -> Chapter:
    points, methods = table["points"], table["methods"]
    shots = sorted({one["shots"] for one in points})
    at = {(one["shots"], one["method"]): one for one in points}
    lines = [Line(name, tuple(shots), tuple(at[k, name]["value"] for k in shots)) for name in methods]
    rows = [
        Row(f"{k} {'label' if k == 1 else 'labels'} a class", [_dot(at[k, name]) for name in methods], table["chance"])
        for k in shots
    ]
    seeds = ", ".join(map(str, table["seeds"]))
    return Chapter(
        "low-label",
        "Few labels",
        f"Accuracy on {table['dataset']} ({table['num_samples']:,} pictures) by the number of labels of each class, the mean "
        f"over draws {seeds}. Every method learns from the same labels; the zero-shot model learns from none.",
        (
            Card(curve("Accuracy by labels", lines, x_label=LABELS)),
            Card(
                dots("With 95 % intervals", rows, methods),
                "Over draws and pictures, both resampled.",
            ),
        ),
    )


def _dot(point: dict[str, Any]) -> Dot:
    return Dot(point["value"], point["low"], point["high"])


def _title(name: str) -> str:
    dataset, slash, metric = name.rpartition("/")
    return f"{dataset}: {words_of(metric)}" if slash else name
