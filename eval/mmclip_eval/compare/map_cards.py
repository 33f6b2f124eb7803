"""Drawings of two models' maps, side by side."""

from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.analysis.embedding_map import spread_out
from mmclip_eval.compare.clusters import Agreement
from mmclip_eval.compare.maps import Grouping, TwinMaps
from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, Line, bars, curve, scatter
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.words import percent, shorten

THUMBNAIL_SIDE = 32
THUMBNAIL_DISTANCE = 0.085
MOST_NAME = 32


def map_cards(
    found: TwinMaps,
    names: tuple[str, str],
    album: Album | None = None,
    sample_of_row: Int[Tensor, " row"] | None = None,
    thumbnails: int = 30,
) -> list[Card]:
    """The planes with A's clusters in both, each grouping with its own, agreements, and the number of components.

    `names` are those of the models. Thumbnails need an album; a row is the sample of its number unless told otherwise.
    """
    first = found.groupings[0]
    shown = [int(i) for i in spread_out(found.a, THUMBNAIL_DISTANCE, thumbnails)] if album is not None else []
    pictures: dict[int, str] = {}
    for i in shown:
        assert album is not None, "no picture is shown without"
        row = found.samples[i]
        pictures[i] = album.picture(row if sample_of_row is None else int(sample_of_row[row]), THUMBNAIL_SIDE).uri
    planes = side_by_side(
        _plane(f"A: {names[0]}", found.a, found.explained[0], first.a, first.names_a, pictures),
        _plane(f"B: {names[1]}", found.b, found.explained[1], first.a, first.names_a, pictures),
    )
    caption = (
        "The same pictures on the two principal components of each model, in the colours of A's clusters in both: where a "
        f"colour is torn apart on the right, B sees it otherwise. B's plane is turned towards A's; the two are alike by "
        f"{found.likeness:.2f}, with pictures permuted by {found.likeness_floor:.2f}."
    )
    cards = [Card(planes, caption, wide=True)]
    cards += [_own(found, one, names) for one in found.groupings]
    cards.append(Card(bars("Do both group the pictures alike?", _bars(found), percent=False), BARS_CAPTION))
    cards.append(_criterion(found, names))
    return cards


def side_by_side(left: str, right: str) -> str:
    """Two drawings in one card, below each other where there is no room."""
    return f'<div class="twins">{left}{right}</div>'


BARS_CAPTION = (
    "1: the same groups; 0: as independent ones. The upright stroke is the floor, with pictures permuted. A again: A alone, "
    "grouped from other beginnings. That is the ceiling: where it is far below 1, there are no groups that could be found "
    "again, and the rest means little."
)


def _plane(
    title: str,
    points: Float[Tensor, "point 2"],
    share: float,
    groups: Int[Tensor, " point"],
    names: tuple[str, ...],
    pictures: dict[int, str],
) -> str:
    thumbnails = [(*points[i].tolist(), uri) for i, uri in pictures.items() if uri]
    short = [shorten(name, MOST_NAME) for name in names]
    note = f"{percent(share)} of the variance"
    return scatter(title, points.numpy(), groups.numpy(), short, thumbnails=thumbnails, thumbnail_px=20, note=note)


def _own(found: TwinMaps, one: Grouping, names: tuple[str, str]) -> Card:
    drawn = [
        _plane(f"{side}: {one.kind}, {name}", points, share, groups, own, {})
        for side, name, points, share, groups, own in (
            ("A", names[0], found.a, found.explained[0], one.a, one.names_a),
            ("B", names[1], found.b, found.explained[1], one.b, one.names_b),
        )
    ]
    caption = (
        f"Each model's own groups by {one.kind}, named by the text nearest to their centre; a colour stands for the "
        f"groups of A and B that share most pictures. Adjusted Rand index {_said(one.rand)}."
    )
    return Card(side_by_side(*drawn), caption, wide=True)


def _bars(found: TwinMaps) -> list[Bar]:
    rows: list[Bar] = []
    for one in found.groupings:
        for words, figure in (("Rand index", one.rand), ("information", one.information)):
            rows.append(
                Bar(
                    f"{one.kind.removeprefix('Gaussian ')}: {words}",
                    figure.value,
                    figure.low,
                    figure.high,
                    figure.floor,
                )
            )
            rows.append(Bar("A again", figure.ceiling))
    return rows


def _criterion(found: TwinMaps, names: tuple[str, str]) -> Card:
    lines = [
        Line(side, [count for count, _ in values], [value for _, value in values])
        for side, values in zip(("A", "B"), found.criterion, strict=True)
    ]
    most = found.criterion[0][-1][0]
    best = [min(values, key=lambda pair: pair[1])[0] for values in found.criterion]
    return Card(
        curve("Bayesian information criterion", lines, x_label="components of the mixture", y_label="for each picture"),
        f"Lower is better: of up to {most} components {best[0]} describe A best and {best[1]} describe B. A line that still "
        "falls at its end says that the pictures do not fall into few groups.",
    )


def _said(figure: Agreement) -> str:
    return (
        f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f}); A again {figure.ceiling:.2f}, "
        f"permuted pictures {abs(figure.floor):.2f}"
    )
