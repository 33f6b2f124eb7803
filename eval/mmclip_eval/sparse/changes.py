"""A part of a page about two models: which units stayed, which are gone, and which are new, each with its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.report.pages.overview import Tile
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.sets.exhibits import Query
from mmclip_eval.report.words import percent
from mmclip_eval.sparse.autoencoder import SparseAutoencoder
from mmclip_eval.sparse.comparison import UnitComparison
from mmclip_eval.sparse.section import unit_query
from mmclip_eval.sparse.units import Texts, chosen_units, units_of


@dataclass(frozen=True)
class Side:
    """A model's features of the pictures, and what its units may be named by."""

    rows: Float[Tensor, "row width"]
    texts: Texts | None = None


@dataclass(frozen=True)
class SparseChanges:
    """What the macro `changes` of `sparse.html.j2` shows."""

    tiles: tuple[Tile, ...]
    kept: tuple[tuple[Query, Query], ...]
    """A unit of A beside its partner in B."""
    lost: tuple[Query, ...]
    new: tuple[Query, ...]
    lost_in_all: int
    new_in_all: int


def sparse_changes(
    found: UnitComparison,
    a: Side,
    b: Side,
    album: Album,
    sample_of_row: Int[Tensor, " row"],
    units: int = 6,
    hits: int = 4,
) -> SparseChanges:
    """Draw it: a fixed draw of at most `units` of each kind, none picked by hand."""
    partner = dict(zip(found.between.kept.a.tolist(), found.between.kept.b.tolist(), strict=True))
    correlation = dict(zip(found.between.kept.a.tolist(), found.between.kept.correlation.tolist(), strict=True))

    def drawn(model: SparseAutoencoder, side: Side, numbers: Sequence[int], abouts: Sequence[str] = ()) -> list[Query]:
        shown = units_of(model, side.rows, numbers, hits, side.texts)
        about = abouts or [""] * len(shown)
        return [
            unit_query(unit, album, sample_of_row, len(side.rows), words)
            for unit, words in zip(shown, about, strict=True)
        ]

    kept = some_of(found.between.kept.a, found.a, a.rows, units)
    lost, new = some_of(found.lost, found.a, a.rows, units), some_of(found.new, found.b, b.rows, units)
    partners = [partner[unit] for unit in kept]
    words = [f"B's unit {partner[unit]}: correlation {correlation[unit]:.2f}" for unit in kept]
    return SparseChanges(
        tiles=_tiles(found),
        kept=tuple(zip(drawn(found.a, a, kept), drawn(found.b, b, partners, words), strict=True)),
        lost=tuple(drawn(found.a, a, lost)),
        new=tuple(drawn(found.b, b, new)),
        lost_in_all=len(found.lost),
        new_in_all=len(found.new),
    )


def some_of(
    numbers: Int[Tensor, " unit"], model: SparseAutoencoder, rows: Float[Tensor, "row width"], count: int
) -> tuple[int, ...]:
    """A fixed draw of units of these numbers, those that fire on most rows first."""
    fires = torch.zeros(model.units, dtype=torch.long)
    for _, activations in model.encoded(rows):
        fires += (activations > 0).sum(dim=0).cpu()
    asked = torch.zeros(model.units, dtype=torch.long)
    asked[numbers] = fires[numbers]
    return chosen_units(asked, count, least_rows=1)


def _tiles(found: UnitComparison) -> tuple[Tile, ...]:
    low, high = found.between.share_kept_interval
    stable_a, stable_b = len(found.within_a.kept.a), len(found.within_b.kept.a)
    return (
        Tile(
            "units of A that B has too",
            percent(found.share_kept),
            (
                f"95 % interval {percent(low)} to {percent(high)}",
                f"a second fit to A itself has {percent(found.ceiling)}",
                f"mean correlation {found.between.mean_correlation:.2f}; permuted pictures {found.between.floor:.2f}",
            ),
        ),
        Tile("lost", f"{len(found.lost):,}", (f"of {stable_a:,} units that a second fit to A has too",)),
        Tile("new", f"{len(found.new):,}", (f"of {stable_b:,} units that a second fit to B has too",)),
    )
