"""From what each model sees to a comparison: behaviour on every set, layers on the first, and the verdict."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures, shared_rows
from mmclip_eval.compare.behaviour.behaviour import behaviour
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.comparison import ComparedSet, Comparison
from mmclip_eval.compare.maps import TwinMaps, twin_maps
from mmclip_eval.compare.readings import (
    WORDS,
    Better,
    Reading,
    behaviour_readings,
    panel_readings,
    representation_words,
)
from mmclip_eval.compare.representation.pair import LEAST_ROWS
from mmclip_eval.compare.representation.panel import Panel, representation_panel
from mmclip_eval.compare.verdict import Thresholds, judge
from mmclip_eval.contrasim.predict import contrasim_of
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.sparse.comparison import UnitComparison, compare_units
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.units import Texts

Say = Callable[[str], object]
Track = Callable[[str, int, int], None]
"""Called with what is being worked on, the parts done and the parts in all."""
FEW_ROWS = 1000
"""Samples below which a reader is told that intervals are wide."""


@dataclass(frozen=True)
class Viewed:
    """One model, on every set."""

    name: str
    seen: tuple[Seen, ...]
    layers: tuple[LayerFeatures, ...]
    """Of the first set: the image tower, then the text tower; empty where none were asked for."""


@dataclass(frozen=True)
class More:
    """What is compared beside behaviour and layers."""

    sparse: SparseConfig | None = None
    """Autoencoders over the first set's picture embeddings; None for none."""
    contrasim: ContraSimConfig | None = None
    """The learned similarity over layers; None for none."""


def known_figures() -> Mapping[str, Better]:
    """Every figure that a rule may name, and which side of it is better."""
    return {name: better for name, (_, better) in {**WORDS, **representation_words()}.items()}


def compare_viewed(
    a: Viewed,
    b: Viewed,
    against: Sequence[Viewed],
    thresholds: Thresholds,
    more: More | None = None,
    say: Say = lambda text: None,
    track: Track = lambda name, done, total: None,
) -> Comparison:
    """Compare B with A; `say` is told what is being worked on, and `track` how far it is.

    Raises:
        UserError: the models saw different samples, a set has too few, or a rule is wrong.
    """
    more = more or More()
    sets = [
        ComparedSet(behaviour(one, other, [model.seen[place] for model in against]), one, other)
        for place, (one, other) in enumerate(zip(a.seen, b.seen, strict=True))
    ]
    notes: list[str] = []
    panels = list(_panels(a, b, against, say, track, notes))
    maps = _maps(sets[0], notes) if sets else None
    contrasim = None if more.contrasim is None else _contrasim([a, b, *against], more.contrasim, say, track, notes)
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
        notes=(*notes, *_notes(sets, panels, readings)),
        maps=maps,
        units=_units(sets[0], more.sparse, say, track) if more.sparse is not None else None,
        contrasim=contrasim,
    )


def _panels(
    a: Viewed, b: Viewed, against: Sequence[Viewed], say: Say, track: Track, notes: list[str]
) -> Iterator[Panel]:
    for place, ours in enumerate(a.layers):
        others = [model.layers[place] for model in (b, *against)]
        if len(ours) < LEAST_ROWS:
            notes.append(
                f"{ours.tower} tower: {len(ours)} rows are too few to compare layers on: {LEAST_ROWS} are needed"
            )
            continue
        ours, *others = shared_rows([ours, *others])
        say(f"{ours.tower} tower: {len(ours.names)} x {len(others[0].names)} layers on {len(ours):,} rows")
        yield representation_panel(
            ours, others[0], others[1:], track=partial(track, f"layers of the {ours.tower} tower")
        )


def _maps(first: ComparedSet, notes: list[str]) -> TwinMaps | None:
    try:
        return twin_maps(first.a.image_embed, first.b.image_embed, texts_of(first.a), texts_of(first.b))
    except UserError as error:  # too few pictures, or a collapse: figures say it too
        notes.append(f"no maps: {error}")
        return None


def _units(first: ComparedSet, settings: SparseConfig, say: Say, track: Track) -> UnitComparison:
    say("sparse autoencoders: two fits to each model")
    return compare_units(first.a.image_embed, first.b.image_embed, settings, progress=track)


def _contrasim(
    models: Sequence[Viewed], settings: ContraSimConfig, say: Say, track: Track, notes: list[str]
) -> LayerPrediction | None:
    """A and B are those that are held out: trained on the independent models, does it know their layers?"""
    say(f"learned similarity: trained on {len(models) - 2} independent models, tested on A and B, with its controls")
    try:
        layers, names = [model.layers[0] for model in models], [model.name for model in models]
        return contrasim_of(layers, names, settings, held_out=(0, 1), progress=track)
    except UserError as error:  # commentary must not cost the rest
        notes.append(f"no learned similarity: {error}")
        return None


def texts_of(seen: Seen) -> Texts | None:
    """What clusters and units of a set's pictures may be named by."""
    if seen.class_embed is not None:
        return Texts(seen.class_embed, seen.dataset.labelled.class_names)
    return None if seen.caption_embed is None else Texts(seen.caption_embed, seen.dataset.captioned.captions)


def _notes(sets: Sequence[ComparedSet], panels: Sequence[Panel], readings: Sequence[Reading]) -> Iterator[str]:
    for one in sets:
        if one.behaviour.samples < FEW_ROWS:
            yield f"{one.behaviour.dataset}: {one.behaviour.samples:,} samples: the intervals are wide"
        yield from (f"{one.behaviour.dataset}: {note}" for note in one.a.dataset.notes)
    for panel in panels:
        for pair in panel.pairs:
            yield from (
                f"{panel.tower} tower, {pair.names[0]}: {reason}" for reason in dict.fromkeys(pair.notes.values())
            )
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
