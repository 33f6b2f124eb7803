"""Everything the page shows of one evaluation set, made from what its one pass saw."""

from dataclasses import dataclass

from torch import Tensor

from mmclip_eval.analysis.confusions import Pair, worst_pairs
from mmclip_eval.analysis.predictions import Predictions, confident_mistakes, predict
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.captioned import Captioned
from mmclip_eval.evidence import Evidence
from mmclip_eval.labelled import Labelled
from mmclip_eval.report.cards import Card
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.sets.exhibits import Exhibit, Query, caption_queries, captions_for, class_queries, classified
from mmclip_eval.report.sets.geometry import clusters_of, drawn_confusion, drawn_geometry, drawn_maps, map_of
from mmclip_eval.report.words import figure

PICTURE_SIDE = 104
"""CSS pixels of a picture on a wall."""
HIT_SIDE = 64
SHOWN_PROBLEMS = 3
WORST_PAIRS = 12


@dataclass(frozen=True)
class Extent:
    """How much of a set is shown; a page about many sets shows less of each."""

    wall: int
    mistakes: int
    queries: int
    hits: int
    thumbnails: int
    """On the map."""
    picture_bytes: int
    """Of all pictures of the set together."""


@dataclass(frozen=True)
class Wall:
    """Pictures beside what the model says of them."""

    anchor: str
    short: str
    """In the table of contents."""
    title: str
    intro: str
    exhibits: tuple[Exhibit, ...]


@dataclass(frozen=True)
class QueryWall:
    """Texts beside the pictures that the model finds for them."""

    anchor: str
    short: str
    title: str
    intro: str
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class DatasetSection:
    """One set's part of the page; what does not apply is empty."""

    anchor: str
    name: str
    about: str
    problems: tuple[str, ...]
    walls: tuple[Wall, ...]
    query_walls: tuple[QueryWall, ...]
    confusion: tuple[Card, ...]
    pairs: tuple[Pair, ...]
    geometry: tuple[Card, ...]
    maps: tuple[Card, ...]
    clusters: tuple[Query, ...]


def dataset_section(evidence: Evidence, logit_scale: float, extent: Extent, number: int) -> DatasetSection:
    """Analyse, read the pictures and draw; the same evidence gives the same section."""
    dataset = evidence.dataset
    album = Album(dataset.samples, extent.picture_bytes)
    walls: list[Wall] = []
    query_walls: list[QueryWall] = []
    confusion: list[Card] = []
    pairs: list[Pair] = []
    if evidence.class_embed is not None:
        predictions = predict(evidence.image_embed, evidence.class_embed, logit_scale)
        walls += _class_walls(evidence, dataset.labelled, predictions, logit_scale, album, extent)
        query_walls.append(_class_queries(evidence, dataset.labelled, evidence.class_embed, album, extent))
        said = predictions.classes[:, 0]
        confusion = drawn_confusion(dataset.labelled, dataset.groups, said)
        if not confusion or dataset.groups is not None:
            pairs = worst_pairs(dataset.labelled.labels, said, dataset.labelled.class_names, WORST_PAIRS)
    if evidence.caption_embed is not None:
        walls.append(_caption_wall(evidence, dataset.captioned, evidence.caption_embed, album, extent))
        query_walls.append(_caption_queries(evidence, dataset.captioned, evidence.caption_embed, album, extent))
    geometry = drawn_geometry(evidence)
    places = map_of(evidence)
    maps = drawn_maps(places, evidence, album, extent.thumbnails)
    clusters = clusters_of(places, evidence, album, HIT_SIDE, extent.hits)
    album.samples.close()
    return DatasetSection(
        anchor=f"set-{number}",
        name=dataset.config.name,
        about=_about(evidence),
        problems=_problems(album),
        walls=tuple(walls),
        query_walls=tuple(query_walls),
        confusion=tuple(confusion),
        pairs=tuple(pairs),
        geometry=tuple(geometry),
        maps=tuple(maps),
        clusters=tuple(clusters),
    )


def _about(evidence: Evidence) -> str:
    dataset = evidence.dataset
    parts = [f"{len(evidence.image_embed):,} held-out pictures"]
    if evidence.class_embed is not None:
        parts.append(f"{len(dataset.labelled.class_names):,} class names")
    if evidence.caption_embed is not None:
        parts.append(f"{len(dataset.captioned.captions):,} captions")
    return f"{', '.join(parts)}, from {dataset.config.path}."


def _problems(album: Album) -> tuple[str, ...]:
    """Pictures that could not be read: the first few by name, the rest as a number."""
    found = list(album.problems.values())
    more = [f"and {len(found) - SHOWN_PROBLEMS} more pictures"] if len(found) > SHOWN_PROBLEMS else []
    return (*(f"A picture cannot be shown: {problem}" for problem in found[:SHOWN_PROBLEMS]), *more)


def _class_walls(
    evidence: Evidence, part: Labelled, predictions: Predictions, logit_scale: float, album: Album, extent: Extent
) -> list[Wall]:
    total = len(evidence.image_embed)
    chosen = draw(extent.wall, total, stream=4)
    wrong = confident_mistakes(predictions, part.labels, extent.mistakes)
    chances = (
        f"Percentages are the softmax over all {len(part.class_names):,} class names of the cosine times the logit scale "
        f"({figure(logit_scale)})"
    )
    walls = [
        Wall(
            "wall",
            "Pictures",
            "What the model says of unseen pictures",
            f"{len(chosen)} of {total:,} pictures, drawn at random by a fixed seed, not chosen: in bold what it shows, "
            f"below it the five likeliest names. {chances}; the longest bar is the surest answer on this wall.",
            tuple(classified(album, part, predictions, chosen, PICTURE_SIDE)),
        )
    ]
    if wrong:
        intro = "The pictures of the whole set that the model is surest about, and wrong."
        mistakes = classified(album, part, predictions, wrong, PICTURE_SIDE)
        walls.append(Wall("mistakes", "Mistakes", "Most confident mistakes", intro, tuple(mistakes)))
    return walls


def _caption_wall(evidence: Evidence, part: Captioned, caption_embed: Tensor, album: Album, extent: Extent) -> Wall:
    chosen = draw(extent.wall // 2, len(evidence.image_embed), stream=4)
    return Wall(
        "captions",
        "Captions",
        "From picture to caption",
        f"{len(chosen)} of {len(evidence.image_embed):,} pictures, drawn at random by a fixed seed, with the five captions "
        f"of all {len(part.captions):,} that are most like them. Figures are cosines.",
        tuple(captions_for(album, part, evidence.image_embed, caption_embed, chosen, PICTURE_SIDE)),
    )


def _class_queries(evidence: Evidence, part: Labelled, class_embed: Tensor, album: Album, extent: Extent) -> QueryWall:
    queries = class_queries(album, part, evidence.image_embed, class_embed, extent.queries, extent.hits, HIT_SIDE)
    return QueryWall(
        "names",
        "Names",
        "From name to picture",
        f"Class names drawn at random by a fixed seed, each with the {extent.hits} pictures of the whole set that are most "
        "like it. Figures are cosines; right ones are framed and ticked.",
        tuple(queries),
    )


def _caption_queries(
    evidence: Evidence, part: Captioned, caption_embed: Tensor, album: Album, extent: Extent
) -> QueryWall:
    queries = caption_queries(album, part, evidence.image_embed, caption_embed, extent.queries, extent.hits, HIT_SIDE)
    return QueryWall(
        "retrieval",
        "Retrieval",
        "From caption to picture",
        f"Captions drawn at random by a fixed seed, each with the {extent.hits} pictures of the whole set that are most like "
        "it. Figures are cosines; the right one is framed and ticked.",
        tuple(queries),
    )
