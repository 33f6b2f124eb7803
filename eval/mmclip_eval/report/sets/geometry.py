"""Drawings of an evaluation set: confusions, similarities, the gap between the modalities, maps."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.analysis.confusions import confusion_matrix
from mmclip_eval.analysis.embedding_map import EmbeddingMap, map_embeddings, map_gap, spread_out, umap_points
from mmclip_eval.analysis.similarity import count_similarities
from mmclip_eval.evidence import Evidence
from mmclip_eval.groups import Groups
from mmclip_eval.labelled import Labelled
from mmclip_eval.metrics.bootstrap import accuracy_interval
from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, bars, confusion, gap_map, histogram, scatter
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.sets.exhibits import Hit, Query
from mmclip_eval.report.words import percent, shorten

MOST_NAME = 40
THUMBNAIL_SIDE = 32
"""CSS pixels of a picture on a map."""
THUMBNAIL_DISTANCE = 0.085
"""Between two of them, as a share of the map's longer side."""

OwnPairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]
"""Pictures, and the text that belongs to each; a picture may stand several times."""


def own_pairs(evidence: Evidence) -> OwnPairs:
    """Each picture with its class, else each caption's picture with the caption."""
    dataset = evidence.dataset
    if evidence.caption_embed is not None:
        return dataset.captioned.image_of_caption, torch.arange(len(dataset.captioned.captions))
    return torch.arange(len(dataset.labelled.labels)), dataset.labelled.labels


def texts_of(evidence: Evidence) -> tuple[Tensor, tuple[str, ...]]:
    """The embeddings of the texts that belong to the pictures, and the texts: captions before class names."""
    dataset = evidence.dataset
    if evidence.caption_embed is not None:
        return evidence.caption_embed, dataset.captioned.captions
    assert evidence.class_embed is not None, "a set that is shown has classes or captions"
    return evidence.class_embed, dataset.labelled.class_names


def drawn_confusion(part: Labelled, groups: Groups | None, said: Int[Tensor, " sample"]) -> list[Card]:
    """The matrix between categories, else between few classes; nothing where there are too many of them."""
    matrix = confusion_matrix(part.labels, said, part.class_names, groups)
    if matrix is None:
        return []
    right = int(matrix.counts.diagonal().sum()) / int(matrix.counts.sum())
    kind, one = ("classes", "class") if groups is None else ("categories", "category")
    caption = f"The {one} of the likeliest name is right for {percent(right)} of the pictures."
    return [
        Card(confusion(f"Confusion between {kind}", matrix.counts.numpy(), matrix.names), caption),
        Card(
            bars(f"Top\u20111 accuracy by {one}", _accuracies(part, groups, said)),
            "How often the likeliest name is the right one.",
        ),
    ]


def _accuracies(part: Labelled, groups: Groups | None, said: Int[Tensor, " sample"]) -> list[Bar]:
    """Rows from the best to the worst, each with its interval and the chance of a guess among all classes."""
    names, group = (part.class_names, part.labels) if groups is None else (groups.names, groups.of_sample)
    correct = said == part.labels
    rows = []
    for number in torch.unique(group).tolist():
        own = correct[group == number]
        low, high = accuracy_interval(own)
        rows.append(Bar(names[number], float(own.double().mean()), low, high, 1 / len(part.class_names)))
    return sorted(rows, key=lambda row: -float(row.value))


def drawn_geometry(evidence: Evidence) -> list[Card]:
    """Similarity histograms and the gap between the modalities."""
    text_embed, _ = texts_of(evidence)
    counts = count_similarities(evidence.image_embed, text_embed, *own_pairs(evidence))
    drawn = counts.coarse()
    gap = map_gap(evidence.image_embed, text_embed)
    return [
        Card(
            histogram("Similarity", drawn.positive, drawn.negative, edges=drawn.edges),
            "Cosines of pictures with their own text and with all others. Of two such pairs the one that belongs together is "
            f"the more alike {percent(counts.separation)} of the time; 50 % is chance.",
        ),
        Card(
            gap_map("Modality gap", gap.images.numpy(), gap.texts.numpy(), gap=gap.gap),
            "Pictures and texts together. A distance between their means is normal; the logit scale drives it.",
        ),
    ]


def drawn_maps(found: EmbeddingMap | None, evidence: Evidence, album: Album, thumbnails: int) -> list[Card]:
    """Pictures in the plane, by principal components and, where it is installed, by UMAP."""
    if found is None:
        return []
    note = f"{percent(found.explained)} of the variance"
    cards = [_map("Principal components", found.points, found, album, thumbnails, note)]
    layout = umap_points(evidence.image_embed, found.samples)
    if layout is not None:
        cards.append(
            _map("UMAP", layout, found, album, thumbnails, "neighbours stay neighbours; distances mean little")
        )
    return cards


def clusters_of(found: EmbeddingMap | None, evidence: Evidence, album: Album, side: int, most: int) -> list[Query]:
    """Each cluster by its name, with the pictures nearest to its centre."""
    if found is None:
        return []
    return [
        Query(
            " · ".join(shorten(name, MOST_NAME) for name in names),
            f"{len(points):,} of {len(found.samples):,} pictures",
            tuple(Hit(album.picture(found.samples[i], side), names[0], "", False) for i in points[:most]),
            series=number,
        )
        for number, (names, points) in enumerate(zip(found.names, found.nearest, strict=True), start=1)
    ]


def map_of(evidence: Evidence) -> EmbeddingMap | None:
    """The map of a set's pictures, its clusters named by the set's texts."""
    return map_embeddings(evidence.image_embed, *texts_of(evidence))


def _map(
    title: str, points: Float[Tensor, "point 2"], found: EmbeddingMap, album: Album, thumbnails: int, note: str
) -> Card:
    shown = [
        (*points[i].tolist(), picture.uri)
        for i in spread_out(points, THUMBNAIL_DISTANCE, thumbnails)
        if (picture := album.picture(found.samples[i], THUMBNAIL_SIDE)).uri
    ]
    names = [names[0] for names in found.names]
    svg = scatter(title, points.numpy(), found.cluster.numpy(), names, thumbnails=shown, thumbnail_px=20, note=note)
    return Card(svg)
