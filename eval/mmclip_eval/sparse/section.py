"""A part of a page about one autoencoder: its figures beside their anchors, and its units with the pictures that fire them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, bars, histogram
from mmclip_eval.report.pages.overview import Tile
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.sets.exhibits import Hit, Query
from mmclip_eval.report.words import percent, shorten
from mmclip_eval.sparse.reconstruction import Explained, Use
from mmclip_eval.sparse.study import SparseStudy
from mmclip_eval.sparse.units import Unit

UNIT_SIDE = 64
"""CSS pixels of a picture beside a unit."""
MOST_NAME = 40
DENSITY_BINS = 20


@dataclass(frozen=True)
class SparseSection:
    """What `sparse.html.j2` shows."""

    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]
    cards: tuple[Card, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The figures as a table."""
    units: tuple[Query, ...]
    living: int
    """Units that the shown ones were drawn from."""


def sparse_section(
    study: SparseStudy, units: Sequence[Unit], album: Album, sample_of_row: Int[Tensor, " row"], living: int
) -> SparseSection:
    """Draw it; pictures come from `album`, whose samples the rows belong to."""
    return SparseSection(
        tiles=_tiles(study),
        notes=study.notes,
        cards=(_explained(study), _density(study)),
        columns=COLUMNS,
        rows=tuple(rows_of(study)),
        units=tuple(unit_query(unit, album, sample_of_row, len(study.fitted) + len(study.held_out)) for unit in units),
        living=living,
    )


def unit_query(unit: Unit, album: Album, sample_of_row: Int[Tensor, " row"], rows: int, about: str = "") -> Query:
    """A unit as a row of pictures, those that fire it most first, each with its activation."""
    hits = tuple(
        Hit(album.picture(int(sample_of_row[row]), UNIT_SIDE), unit.name, f"{activation:.2f}", False)
        for row, activation in zip(unit.rows, unit.activations, strict=True)
    )
    text = " · ".join(shorten(name, MOST_NAME) for name in unit.names) or unit.name
    cosine = f"; cosine of the name {unit.name_cosine:.2f}" if unit.names else ""
    return Query(text, about or f"unit {unit.number}: fires on {unit.fires:,} of {rows:,} pictures{cosine}", hits)


COLUMNS = ("on held-out pictures", "explained", "95 % interval", "active units")


def rows_of(study: SparseStudy) -> list[tuple[str, ...]]:
    """The autoencoder and what it stands beside, as printed."""
    components = f"{study.components} {'component' if study.components == 1 else 'components'}"
    return [
        ("sparse autoencoder", *_cells(study.explained), f"{study.use.mean_active:.2f}"),
        ("principal components", *_cells(study.by_components), components),
        ("control: Gaussian rows", *_cells(study.control), f"{study.control_use.mean_active:.2f}"),
    ]


def facts_of(study: SparseStudy) -> list[str]:
    """What the table does not say, a line each."""
    units = study.model.units
    lines = [
        f"{units:,} units of width {study.model.width}, fitted to {len(study.fitted):,} pictures, "
        f"measured on {len(study.held_out):,}",
        f"dead: {study.dead:,} units ({percent(study.dead / units)}) fire on no picture at all; "
        f"{study.silent:,} on no held-out one",
    ]
    return [*lines, *study.notes]


def _cells(found: Explained) -> tuple[str, str]:
    return f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"


def _tiles(study: SparseStudy) -> tuple[Tile, ...]:
    found, units = study.explained, study.model.units
    return (
        Tile(
            "variance explained, held-out pictures",
            percent(found.value),
            (
                f"95 % interval {percent(found.low)} to {percent(found.high)}",
                f"{study.components} principal components: {percent(study.by_components.value)}",
                f"control, Gaussian rows: {percent(study.control.value)}",
            ),
        ),
        Tile(
            "active units a picture",
            f"{study.use.mean_active:.3g}",
            (f"of {units:,} (L0, mean over held-out pictures)",),
        ),
        Tile(
            "dead units",
            percent(study.dead / units),
            (f"{study.dead:,} of {units:,} fire on no picture at all", f"{study.silent:,} on no held-out one"),
        ),
    )


def _explained(study: SparseStudy) -> Card:
    rows = [
        Bar(name, found.value, found.low, found.high)
        for name, found in (
            ("autoencoder", study.explained),
            (f"{study.components} components", study.by_components),
            ("Gaussian control", study.control),
        )
    ]
    if study.has_structure:
        verdict = "The autoencoder explains more than it does."
    elif study.beats_control:
        verdict = (
            "It lies below principal components, so it is not fitted as far as it can be: to beat it shows nothing."
        )
    else:
        verdict = "The autoencoder explains no more, so its units show no structure that the covariance does not."
    return Card(
        bars("Variance explained", rows),
        "Principal components are as many as units are active, but the same for every picture. The control is the same "
        f"autoencoder on normal rows of the same covariance, which have no sparse parts. {verdict}",
    )


def _density(study: SparseStudy) -> Card:
    edges = np.linspace(-np.log10(study.use.rows) - 0.05, 0.0, DENSITY_BINS + 1)
    counts = [np.histogram(_logarithms(use), edges)[0] for use in (study.use, study.control_use)]
    return Card(
        histogram(
            "How often units fire",
            counts[0],
            counts[1],
            edges=edges,
            names=("units", "control"),
            x_label="share of held-out pictures: −1 is a tenth, −2 a hundredth",
        ),
        "Units that fire on few pictures stand left; those on none are left out here and counted as silent.",
    )


def _logarithms(use: Use) -> np.ndarray:
    density = use.density.numpy()
    return np.log10(density[density > 0])
