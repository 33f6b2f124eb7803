"""The curves of a run, by chapter; a curve stands only where its figures were logged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Line, Mark, Reference, twin_curve
from mmclip_eval.report.scores.metric_words import words_of
from mmclip_eval.report.training.drawn import STEP, Drawn
from mmclip_eval.report.training.history import History, Points
from mmclip_eval.report.training.view_curves import draw_features, draw_objectives, is_of_objective

DRAWN_ALARMS = 8


@dataclass(frozen=True)
class Chapter:
    """A section of drawings."""

    anchor: str
    title: str
    intro: str
    cards: tuple[Card, ...]


def chapters(history: History) -> list[Chapter]:
    """Training, scores over the run and health; those without a drawing are left out."""
    marks = [Mark(alarm.step, alarm.alarm) for alarm in history.alarms[:DRAWN_ALARMS]]
    found = [
        Chapter("training", "Training", _training_intro(history), tuple(_training(history, marks))),
        Chapter(
            "progress",
            "Scores over the run",
            "Held-out figures of the weights as they stood, before the first step, on the way and at the end.",
            tuple(_scores(history, marks)),
        ),
        Chapter(
            "objectives",
            "Objectives",
            "What objectives over views say of themselves: their prototypes, teachers and queues, and how they go together.",
            tuple(draw_objectives(history, marks)),
        ),
        Chapter(
            "health",
            "Health",
            "Of the embeddings and features of each logged batch. No single figure tells a collapse, so there are several.",
            tuple(_health(history, marks)),
        ),
    ]
    return [chapter for chapter in found if chapter.cards]


def _training_intro(history: History) -> str:
    alarms = "" if history.alarms else " No alarm was raised."
    return (
        f"Over {history.last_step:,} optimizer steps. The loss is of every step, the rest of every logged one.{alarms}"
    )


def _training(history: History, marks: Sequence[Mark]) -> list[Card]:
    batch = history.config.get("global_batch_size")
    contrastive = history.config.get("objective", {}).get("type", "clip") == "clip"
    guess = [Reference(math.log(batch), "guessing: ln of the batch")] if batch and contrastive else []
    chance = [Reference(1 / batch, "guessing")] if batch else []
    rest = Drawn(history, marks)
    loss = history.losses if history.losses[0] else history.figures.get("train/loss", ((), ()))
    rest.add("Loss", {"loss": loss}, "Lower is better.", reference=guess)
    rest.known.add("train/loss")
    rest.one(
        "train/in_batch_top_1", "In-batch top-1", "How often a picture's own caption is the best in its batch.", chance
    )
    rest.several(
        {"pairs": "train/positive_similarity", "others": "train/negative_similarity"},
        "Similarity",
        "Mean cosine of what belongs together and of what does not. The loss lives on their distance.",
    )
    rest.one("train/logit_scale", "Logit scale", "The inverse temperature: it rises as the towers grow sure.")
    rest.one("train/learning_rate", "Learning rate", "As scheduled.", zero=True)
    rest.one("train/grad_norm", "Gradient norm", "Before clipping. Spikes are batches that pulled hard.", zero=True)
    rest.one("train/samples_per_second", "Throughput", "Samples a second, all processes together.", zero=True)
    rest.one(
        "train/data_wait_fraction", "Waiting for data", "Share of the time in which the towers had no batch.", zero=True
    )
    bad = history.figures.get("train/bad_samples", ((), ()))
    if any(value > 0 for value in bad[1]):
        rest.one("train/bad_samples", "Bad samples", "Replaced so far; the quarantine names each.", zero=True)
    rest.known.add("train/bad_samples")
    for name in sorted(name for name in history.figures if name.startswith("train/") and name not in rest.known):
        if is_of_objective(name):  # in a chapter of their own
            continue
        rest.one(name, name.removeprefix("train/").replace("_", " "), "")
    return rest.cards


def _scores(history: History, marks: Sequence[Mark]) -> list[Card]:
    rest = Drawn(history, marks)
    by_set: dict[str, dict[str, Points]] = {}
    for name, points in history.figures.items():
        dataset, slash, metric = name.rpartition("/")
        # Two depths of recall tell how it goes; a third only crowds the drawing.
        if (
            slash
            and dataset.partition("/")[0] not in ("train", "health")
            and len(points[0]) > 1
            and not metric.endswith("@10")
        ):
            by_set.setdefault(dataset, {})[words_of(metric)] = points
    for dataset, lines in by_set.items():
        recall, accuracy = words_of("mean_per_class_recall"), words_of("acc1")
        if lines.get(recall) == lines.get(accuracy):  # equal where every class has as many pictures: one line, not two
            lines.pop(recall, None)
        rest.add(dataset, lines, "", zero=True)
    return rest.cards


def _health(history: History, marks: Sequence[Mark]) -> list[Card]:
    rest = Drawn(history, marks)
    for suffix, title, words in (
        ("effective_rank", "Effective rank", "How many directions the embeddings use. One means that they collapsed."),
        ("effective_rank_centred", "Effective rank, centred", "The same around the mean: blind to a total collapse."),
        ("std", "Spread", "Deviation a dimension times the root of the width: about 1 is healthy, 0 a collapse."),
        ("uniformity", "Uniformity", "Near 0 all embeddings are one point; near −4 they fill the sphere."),
    ):
        rest.pair(suffix, title, words)
    rest.one(
        "health/alignment",
        "Alignment",
        "Mean squared distance of a picture to its caption.",
        zero=True,
    )
    gap = history.figures.get("health/modality_gap")
    scale = history.figures.get("train/logit_scale")
    if gap and scale:
        svg = twin_curve("Modality gap", Line("gap", *gap), Line("logit scale", *scale), x_label=STEP, marks=marks)
        rest.cards.append(
            Card(svg, "Distance of the mean picture from the mean text. A gap is normal; the scale drives it.")
        )
        rest.known.add("health/modality_gap")
    draw_features(rest)
    for name in sorted(name for name in history.figures if name.startswith("health/") and name not in rest.known):
        rest.one(name, name.removeprefix("health/").replace("_", " "), "")
    return rest.cards
