"""The head of the page: what the run is in one sentence, its figures in large, its facts in small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.report.scores.rows import Score, ScoreGroup
from mmclip_eval.report.training.history import History
from mmclip_eval.report.words import count, duration, figure, percent

MOST_TILES = 6
HEADLINE_METRICS = (
    "acc1",
    "acc5",
    "image_retrieval_recall@1",
    "text_retrieval_recall@1",
    "mean_average_precision",
    "acc",
    "acc_wg",
    "lp_acc1",
    "tip_acc1",
    "knn_acc1",
)
"""The first of them that a task has goes before the second of any."""


@dataclass(frozen=True)
class Tile:
    """A large number, what it is, and what to hold it against."""

    name: str
    value: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A small one."""

    name: str
    value: str


@dataclass(frozen=True)
class Overview:
    """The head of the page."""

    kind: str
    sentence: str
    unfinished: str
    tiles: tuple[Tile, ...]
    facts: tuple[Fact, ...]


def overview(subject: Subject, history: History, groups: Sequence[ScoreGroup]) -> Overview:
    """Everything in the head but the alarms."""
    tiles = [*_score_tiles(groups), *_run_tiles(history, subject)]
    return Overview(
        kind="Training run" if history.config else "Evaluation of weights",
        sentence=_sentence(subject, history),
        unfinished=_unfinished(history),
        tiles=tuple(tiles[:MOST_TILES]),
        facts=tuple(_facts(subject, history)),
    )


def _score_tiles(groups: Sequence[ScoreGroup]) -> list[Tile]:
    found = [
        (place, HEADLINE_METRICS.index(score.metric), group, score)
        for group in groups
        if not group.other_weights
        for place, score in enumerate(score for score in group.scores if score.metric in HEADLINE_METRICS)
    ]
    found.sort(key=lambda one: one[:2])
    return [
        Tile(f"{group.dataset}: {score.words}", percent(score.value), _beside(score))
        for _, _, group, score in found[: MOST_TILES - 2]
    ]


def _beside(score: Score) -> tuple[str, ...]:
    guess = () if score.chance is None else (f"chance {percent(score.chance)}",)
    return *guess, f"95 % interval {percent(score.low).removesuffix(' %')} to {percent(score.high)}"


def _run_tiles(history: History, subject: Subject) -> list[Tile]:
    if not history.last_step:
        scale = subject.logit_scale
        return [Tile("logit scale", figure(scale), ("of the weights",))] if scale is not None else []
    tiles = [Tile("samples seen", count(history.samples_seen), (f"{history.last_step:,} optimizer steps",))]
    if history.losses[1]:
        tiles.append(
            Tile("last loss", figure(history.losses[1][-1]), (f"{figure(history.losses[1][0])} at the first step",))
        )
    return tiles


def _sentence(subject: Subject, history: History) -> str:
    towers = ""
    if subject.image_parameters:
        towers = (
            f" ({count(subject.image_parameters)} parameters for pictures, {count(subject.text_parameters)} for text)"
        )
    if not history.config:
        return f"{subject.architecture}{towers}, scored on held-out pictures without any training here."
    objective = history.config.get("objective", {}).get("type", "clip")
    seconds = history.training_seconds
    time = f", {duration(seconds)} of training steps" if seconds else ""
    start = history.config.get("model", {}).get("init")
    origin = f"from {start}" if start else "from random weights"
    source = history.config.get("data", {}).get("source", {})
    return (
        f"{subject.architecture}{towers}, trained {origin} with the {objective} objective: {history.samples_seen:,} samples "
        f"of {source.get('shards') or source.get('type', 'its data')}{time}."
    )


def _unfinished(history: History) -> str:
    length, batch = history.config.get("length", {}), history.config.get("global_batch_size", 1)
    steps = length.get("steps") or -(-length.get("samples", 0) // batch)  # epochs depend on shards that may be gone
    if steps and history.last_step < steps:
        return f"This run is not finished: {history.last_step:,} of {steps:,} steps are done. mmclip train --resume goes on."
    return ""


def _facts(subject: Subject, history: History) -> list[Fact]:
    config = history.config
    facts = [Fact("architecture", subject.architecture)]
    if subject.image_size != (0, 0):
        facts.append(Fact("pictures", f"{subject.image_size[1]} × {subject.image_size[0]} pixels"))
        facts.append(Fact("embedding", f"{subject.embed_width} dimensions"))
    if subject.logit_scale is not None:
        bias = "" if subject.logit_bias is None else f", bias {figure(subject.logit_bias)}"
        facts.append(Fact("logit scale", f"{figure(subject.logit_scale)}{bias}"))
    if config:
        facts += _run_facts(config, history)
    return [*facts, Fact("machine", subject.machine)]


def _run_facts(config: dict[str, Any], history: History) -> list[Fact]:
    optimizer = config.get("optimizer", {})
    facts = [
        Fact("batch", f"{config['global_batch_size']:,}") if "global_batch_size" in config else None,
        Fact("learning rate", figure(float(optimizer["lr"]))) if "lr" in optimizer else None,
        Fact("precision", str(config.get("precision", "bf16"))),
        Fact("seed", str(config.get("seed", 0))),
        Fact("alarms", str(len(history.alarms) or "none")),
        Fact("bad samples", f"{len(history.bad_samples):,}" if history.bad_samples else "none"),
    ]
    return [fact for fact in facts if fact is not None]
