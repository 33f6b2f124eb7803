"""The figures of a comparison by name: what a verdict judges, a table lists and a result file holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mmclip_eval.compare.anchored import Anchored
from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.behaviour.by_group import GroupChange
from mmclip_eval.compare.change import Change
from mmclip_eval.compare.representation.measures import MEASURES
from mmclip_eval.compare.representation.panel import Panel

Better = Literal["higher", "lower", "nearer to 0"]


@dataclass(frozen=True)
class Reading:
    """One figure between two models."""

    figure: str
    """Its name in a file of thresholds."""
    about: str
    """The set, the tower or the group that it is of."""
    words: str
    value: float
    low: float
    high: float
    ceiling: float | None
    """What it is when nothing has changed; None where that says nothing."""
    floor: float | None
    """What it is when everything has."""
    floor_from: str
    better: Better

    @property
    def worse_end(self) -> float:
        """The end of the interval that speaks against B."""
        if self.better == "nearer to 0":
            return max(abs(self.low), abs(self.high))
        return self.low if self.better == "higher" else self.high


WORDS: Mapping[str, tuple[str, Better]] = {
    "zero_shot.accuracy.change": ("accuracy, B - A", "higher"),
    "zero_shot.agreement": ("both give the same answer", "higher"),
    "zero_shot.negative_flips": ("right before, wrong now", "lower"),
    "zero_shot.positive_flips": ("wrong before, right now", "higher"),
    "zero_shot.worst_group.change": ("accuracy of the group that lost most, B - A", "higher"),
    "retrieval.text.overlap": ("texts found for a picture that are the same", "higher"),
    "retrieval.image.overlap": ("pictures found for a text that are the same", "higher"),
    "retrieval.text.recall.change": ("right text first, B - A", "higher"),
    "retrieval.image.recall.change": ("right picture first, B - A", "higher"),
    "calibration.error.change": ("expected calibration error, B - A", "lower"),
    "calibration.confidence.change": ("mean confidence, B - A", "nearer to 0"),
    "logit_scale.change": ("logit scale, B - A", "nearer to 0"),
    "modality_gap.change": ("distance of the mean picture from the mean text, B - A", "nearer to 0"),
    "stored_embeddings.accuracy": ("right answers of B's texts among A's stored pictures", "higher"),
}
"""Figures of behaviour, in the order of tables."""


def behaviour_readings(found: Behaviour) -> Iterator[Reading]:
    """The figures of one evaluation set."""
    name = found.dataset
    if found.flips is not None:
        yield of_change("zero_shot.accuracy.change", name, found.flips.accuracy)
        yield of_anchored("zero_shot.agreement", name, found.flips.agreement)
        yield of_anchored("zero_shot.negative_flips", name, found.flips.negative)
        yield of_anchored("zero_shot.positive_flips", name, found.flips.positive)
    if found.by_group is not None and found.by_group.rows:
        yield _of_group(name, found.by_group.rows[0])
    for part in found.retrieved:
        yield of_anchored(f"retrieval.{part.way}.overlap", f"{name}, best {part.k}", part.overlap)
        yield of_change(f"retrieval.{part.way}.recall.change", name, part.recall)
    if found.confidence is not None:
        yield of_change("calibration.error.change", name, found.confidence.error)
        yield of_change("calibration.confidence.change", name, found.confidence.mean)
    yield of_change("logit_scale.change", "weights", found.space.logit_scale)
    yield of_change("modality_gap.change", name, found.space.gap)
    if found.space.stored is not None:
        stored = found.space.stored
        words, better = WORDS["stored_embeddings.accuracy"]
        low, high = stored.interval
        yield Reading(
            "stored_embeddings.accuracy", name, words, stored.value, low, high, None, stored.chance, "chance", better
        )


def representation_words() -> dict[str, tuple[str, Better]]:
    """Figures of the embeddings of each tower."""
    words: dict[str, tuple[str, Better]] = {}
    for tower in ("image", "text"):
        for name, measure in MEASURES.items():
            words[f"representation.{tower}.{name}"] = (f"{tower} embeddings: {measure.title}", "higher")
        words[f"representation.{tower}.cka.position"] = (
            f"{tower} embeddings: CKA, from floor (0) to ceiling (1)",
            "higher",
        )
    return words


def panel_readings(panel: Panel) -> Iterator[Reading]:
    """The figures of the embeddings of one tower; layers before them are for the page."""
    words = representation_words()
    pair = panel.pairs[-1]
    about = f"{panel.rows:,} {'pictures' if panel.tower == 'image' else 'texts'}"
    for name, found in pair.figures.items():
        figure = f"representation.{panel.tower}.{name}"
        yield _of_embeddings(figure, about, words[figure], found)
        if name == "cka":
            figure += ".position"
            low, value, high = (replace(found, value=end).position for end in (found.low, found.value, found.high))
            between = replace(found, value=value, low=low, high=high, ceiling=1.0, floor=0.0)
            yield _of_embeddings(figure, about, words[figure], between)


def _of_embeddings(figure: str, about: str, words: tuple[str, Better], found: Anchored) -> Reading:
    return Reading(
        figure,
        about,
        words[0],
        found.value,
        found.low,
        found.high,
        found.ceiling,
        found.floor,
        found.floor_from,
        words[1],
    )


def of_anchored(figure: str, about: str, found: Anchored) -> Reading:
    """A figure between two models."""
    words, better = WORDS[figure]
    return Reading(
        figure,
        about,
        words,
        found.value,
        found.low,
        found.high,
        found.ceiling,
        found.floor,
        found.floor_from,
        better,
    )


def of_change(figure: str, about: str, found: Change) -> Reading:
    """What came on top of a figure that each model has by itself; its anchors are distances, without a sign."""
    words, better = WORDS[figure]
    sign = -1.0 if better == "higher" else 1.0
    floor = None if found.floor is None else sign * found.floor
    origin = "" if floor is None else "independent models"
    return Reading(
        figure, about, words, found.value, found.low, found.high, sign * found.ceiling, floor, origin, better
    )


def _of_group(dataset: str, row: GroupChange) -> Reading:
    return of_change("zero_shot.worst_group.change", f"{dataset}: {row.name} ({row.samples:,})", row.accuracy)
