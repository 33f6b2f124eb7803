"""The chapters of drawings about what lies inside: the layers of both towers, and maps."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from mmclip_eval.compare.comparison import Comparison
from mmclip_eval.compare.map_cards import map_cards
from mmclip_eval.compare.representation.anchors import LayerPair
from mmclip_eval.compare.representation.measures import MEASURES
from mmclip_eval.compare.representation.panel import Panel
from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, Line, Reference, bars, curve, heatmap
from mmclip_eval.report.pictures import Album

BY_DEPTH = ("cka", "procrustes", "neighbours", "rsa")
"""Measures that are drawn over the layers; those of canonical correlations crowd the drawing, and stand in the result."""
PICTURE_BYTES = 150_000
"""Of the thumbnails on the maps."""
WHAT = {"image": "pictures", "text": "texts"}


@dataclass(frozen=True)
class Chapter:
    """A section of drawings."""

    anchor: str
    title: str
    intro: str
    cards: tuple[Card, ...]
    terms: tuple[tuple[str, str], ...] = ()
    """Words of the drawings, each with what it means."""


def chapters(found: Comparison) -> list[Chapter]:
    """The layers of each tower, then the maps."""
    drawn = [*_layers(found)]
    if found.maps is not None:
        first = found.sets[0].a
        album = Album(first.dataset.samples, PICTURE_BYTES)
        drawn.append(
            Chapter(
                "maps",
                "Maps of the pictures",
                "The same pictures as both models see them, and whether both group them alike.",
                tuple(map_cards(found.maps, short_names(found.a, found.b), album)),
            )
        )
        first.dataset.samples.close()
    return drawn


def short_names(a: str, b: str) -> tuple[str, str]:
    """The ends of two paths from where they differ: what a drawing has room for."""
    ours, theirs = (PurePath(name).parts for name in (a, b))
    same = len(os.path.commonprefix([ours, theirs]))
    if same in (len(ours), len(theirs)):
        return a, b
    return str(PurePath(*ours[same:])), str(PurePath(*theirs[same:]))


def _layers(found: Comparison) -> Iterator[Chapter]:
    for panel in found.panels:
        best = panel.pairs[-1].figures.get("cka")
        said = (
            f"The embeddings' CKA is {best.value:.2f}: floor {best.floor:.2f} ({best.floor_from}), ceiling {best.ceiling:.2f}."
            if best is not None
            else "The embeddings have no CKA."
        )
        yield Chapter(
            f"layers-{panel.tower}",
            f"Layers of the {panel.tower} towers",
            f"What each layer makes of {panel.rows:,} {WHAT[panel.tower]}. {said}",
            tuple(_cards(panel)),
            tuple((MEASURES[name].title, MEASURES[name].words) for name in panel.pairs[-1].figures),
        )


def _cards(panel: Panel) -> Iterator[Card]:
    embeddings = panel.pairs[-1]
    for kind in ("pooled", "mean"):
        rows, columns = (_of_kind(names, kind) for names in (panel.layers, panel.other_layers))
        if len(rows) > 1 and len(columns) > 1:
            values = panel.cka.numpy()[np.ix_([*rows.values()], [*columns.values()])]
            word = "the pooled token" if kind == "pooled" else "the mean token"
            yield Card(
                heatmap(f"CKA of {word}", values, [*rows], [*columns], y_label="layers of A in rows, of B in columns"),
                "Debiased linear CKA; the frame marks the layer of B that each of A is most like. A bright diagonal says that "
                "both go the same way.",
            )
    if len(panel.pairs) > 2:
        yield _by_depth(panel)
    yield _embeddings(embeddings)


def _of_kind(names: tuple[str, ...], kind: str) -> Mapping[str, int]:
    """Short names of the layers that have this kind of feature, and their places; the embedding belongs to each."""
    places = {name.removesuffix(f" {kind}"): place for place, name in enumerate(names) if name.endswith(f" {kind}")}
    last = {name: place for place, name in enumerate(names) if name == "embedding"}
    return places | last if places else {}


def _by_depth(panel: Panel) -> Card:
    """Over the layers whose mean token both have, else the pooled one."""
    by_kind = [[pair for pair in panel.pairs if pair.names[0].endswith(kind)] for kind in (" mean", " pooled")]
    pairs: list[LayerPair] = [*max(by_kind, key=len), panel.pairs[-1]]
    lines = []
    for name in BY_DEPTH:
        figures = [(place, pair.figures[name]) for place, pair in enumerate(pairs, 1) if name in pair.figures]
        if figures:
            lines.append(
                Line(
                    MEASURES[name].title,
                    [float(place) for place, _ in figures],
                    [found.value for _, found in figures],
                    low=[found.low for _, found in figures],
                    high=[found.high for _, found in figures],
                )
            )
    last = panel.pairs[-1].figures.get("cka")
    reference = [Reference(last.floor, "floor of CKA, embeddings")] if last is not None else []
    return Card(
        curve("Over the layers", lines, x_label="layer, the embedding last", reference=reference, y_zero=True),
        "Layers of the same depth beside each other; shaded: 95 % interval.",
    )


def _embeddings(pair: LayerPair) -> Card:
    rows = []
    for name, found in pair.figures.items():
        rows.append(Bar(MEASURES[name].title, found.value, found.low, found.high, found.floor))
        if found.halves is not None:
            rows.append(Bar("\u2003two halves of A", found.halves))
    return Card(
        bars("The embeddings by every measure", rows, percent=False, stroke="floor"),
        "1: the same. Two halves of A are random halves of its units, taken for two models: two models that are more alike "
        "than they are differ less than A from itself.",
    )
