"""From what each model sees to a comparison: behaviour on every set, layers on the first, and the verdict."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.compare.behaviour.behaviour import behaviour
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.comparison import ComparedSet, Comparison
from mmclip_eval.compare.readings import (
    WORDS,
    Better,
    Reading,
    behaviour_readings,
    panel_readings,
    representation_words,
)
from mmclip_eval.compare.representation.panel import LayerPanel, compare_layers
from mmclip_eval.compare.verdict import Thresholds, judge

FEW_ROWS = 1000
"""Samples below which a reader is told that intervals are wide."""


@dataclass(frozen=True)
class Viewed:
    """One model, on every set."""

    name: str
    seen: tuple[Seen, ...]
    layers: tuple[LayerFeatures, ...]
    """Of the first set: the image tower, then the text tower; empty where none were asked for."""


def known_figures() -> Mapping[str, Better]:
    """Every figure that a rule may name, and which side of it is better."""
    return {name: better for name, (_, better) in (WORDS | representation_words()).items()}


def compare_viewed(
    a: Viewed,
    b: Viewed,
    against: Sequence[Viewed],
    thresholds: Thresholds,
    say: Callable[[str], object] = lambda text: None,
) -> Comparison:
    """Compare B with A; `say` is told what is being worked on.

    Raises:
        UserError: the models saw different samples, a set has too few, or a rule is wrong.
    """
    judge([], thresholds, known_figures())  # a wrong rule is told before the work
    sets = [
        ComparedSet(behaviour(one, other, [model.seen[place] for model in against]), one, other)
        for place, (one, other) in enumerate(zip(a.seen, b.seen, strict=True))
    ]
    panels = list(_panels(a, b, against, say))
    readings = [reading for one in sets for reading in behaviour_readings(one.behaviour)]
    readings += [reading for panel in panels for reading in panel_readings(panel)]
    readings = list(dict.fromkeys(readings))  # the logit scale is of the weights, whatever the set
    return Comparison(
        a=a.name,
        b=b.name,
        against=tuple(model.name for model in against),
        readings=tuple(readings),
        verdict=judge(readings, thresholds, known_figures()),
        sets=tuple(sets),
        panels=tuple(panels),
        notes=tuple(_notes(sets, panels, readings)),
    )


def _panels(a: Viewed, b: Viewed, against: Sequence[Viewed], say: Callable[[str], object]) -> Iterator[LayerPanel]:
    for place, (ours, theirs) in enumerate(zip(a.layers, b.layers, strict=True)):
        say(f"{ours.tower} tower: {len(ours.names)} x {len(theirs.names)} layers on {len(ours.kept):,} samples")
        try:
            yield compare_layers(ours, theirs, [model.layers[place] for model in against])
        except UserError as error:
            raise UserError(f"{ours.tower} tower of {a.name} and {b.name}: {error}") from error


def _notes(sets: Sequence[ComparedSet], panels: Sequence[LayerPanel], readings: Sequence[Reading]) -> Iterator[str]:
    for one in sets:
        if one.behaviour.samples < FEW_ROWS:
            yield f"{one.behaviour.dataset}: {one.behaviour.samples:,} samples: the intervals are wide"
        yield from (f"{one.behaviour.dataset}: {note}" for note in one.a.dataset.notes)
    for panel in panels:
        yield from panel.notes
    for reading in readings:
        if reading.figure == "stored_embeddings.accuracy":
            before = next(
                (
                    one.behaviour.flips.accuracy.before
                    for one in sets
                    if one.behaviour.flips is not None and one.behaviour.dataset == reading.about
                ),
                None,
            )
            if before is not None and reading.high < before:
                yield (
                    f"{reading.about}: embeddings that A stored cannot be searched with B's texts ({reading.value:.3g} right "
                    f"answers instead of {before:.3g}): encode the pictures again when you switch"
                )
