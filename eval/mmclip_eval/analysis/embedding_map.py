"""Embeddings in the plane: principal components, clusters and their names, and the distance between the modalities."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.analysis.sampling import draw

MOST_POINTS = 1500
MOST_CLUSTERS = 6
CLUSTER_DIMENSIONS = 32
"""k-means runs on so many principal components: distances in more of them say little, and cost time."""
GAP_POINTS = 300


@dataclass(frozen=True)
class EmbeddingMap:
    """Pictures as points."""

    samples: list[int]
    """Which samples the points are."""
    points: Float[Tensor, "point 2"]
    explained: float
    """Share of the variance that the two components hold."""
    cluster: Int[Tensor, " point"]
    names: tuple[tuple[str, ...], ...]
    """Of each cluster: the few texts nearest to its centre, the nearest first."""
    nearest: tuple[list[int], ...]
    """Of each cluster: its points, those nearest to its centre first."""


@dataclass(frozen=True)
class GapMap:
    """Pictures and texts in the plane of their joint principal components."""

    images: Float[Tensor, "image 2"]
    texts: Float[Tensor, "text 2"]
    gap: float
    """Distance between the mean picture and the mean text of the whole set."""


def map_embeddings(
    image_embed: Float[Tensor, "sample embed"], text_embed: Float[Tensor, "text embed"], texts: Sequence[str]
) -> EmbeddingMap | None:
    """The map of (a fixed draw of) the pictures; None where there are too few or all lie on one point."""
    samples = draw(MOST_POINTS, len(image_embed), stream=1)
    rows = image_embed[torch.tensor(samples)].double().numpy()
    if len(rows) < 4 or float(rows.var(axis=0).sum()) < 1e-9:
        return None
    components, explained = principal_components(rows, CLUSTER_DIMENSIONS)
    clusters = min(MOST_CLUSTERS, max(2, len(rows) // 8))
    cluster, distance = _k_means(components, clusters)
    centres = np.stack([rows[cluster == number].mean(axis=0) for number in range(cluster.max() + 1)])
    nearest = tuple(
        [int(i) for i in np.argsort(distance, kind="stable") if cluster[i] == number] for number in range(len(centres))
    )
    return EmbeddingMap(
        samples=samples,
        points=torch.from_numpy(components[:, :2].copy()).float(),
        explained=float(explained[:2].sum()),
        cluster=torch.from_numpy(cluster),
        names=_names(torch.from_numpy(centres).float(), image_embed, text_embed, texts),
        nearest=nearest,
    )


def umap_points(image_embed: Float[Tensor, "sample embed"], samples: Sequence[int]) -> Float[Tensor, "point 2"] | None:
    """A second map, of neighbourhoods instead of variance; None where the package umap-learn is not installed."""
    if importlib.util.find_spec("umap") is None or len(samples) < 16:
        return None
    umap = importlib.import_module("umap")  # optional: pip install "mmclip[umap]"
    rows = image_embed[torch.tensor(samples)].numpy()
    layout = umap.UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1).fit_transform(rows)
    return torch.from_numpy(np.asarray(layout, dtype=np.float32))


def map_gap(image_embed: Float[Tensor, "image embed"], text_embed: Float[Tensor, "text embed"]) -> GapMap:
    """Both modalities in one plane, a fixed draw of at most `GAP_POINTS` of each."""
    images = image_embed[torch.tensor(draw(GAP_POINTS, len(image_embed), stream=2))]
    texts = text_embed[torch.tensor(draw(GAP_POINTS, len(text_embed), stream=3))]
    points, _ = principal_components(torch.cat([images, texts]).double().numpy(), 2)
    plane = torch.from_numpy(points).float()
    gap = float((image_embed.mean(dim=0) - text_embed.mean(dim=0)).norm())
    return GapMap(plane[: len(images)], plane[len(images) :], gap)


def principal_components(rows: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows on at most `most` principal components (at least two, the rest zero), and the variance share of each."""
    from sklearn.decomposition import PCA

    if float(rows.var(axis=0).sum()) < 1e-12:  # one point: sklearn would divide by its variance
        return np.zeros((len(rows), 2)), np.zeros(2)
    count = min(most, *rows.shape)
    fitted = PCA(count, svd_solver="full")
    points, shares = fitted.fit_transform(rows), fitted.explained_variance_ratio_
    missing = max(0, 2 - count)
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def spread_out(points: Float[Tensor, "point 2"], distance: float, most: int) -> list[int]:
    """Points of which no two are nearer than `distance` (1 is the longer side of the map): a thumbnail fits at each.

    Taken in the fixed order of the points, at most `most`.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    scaled = (points - low) / max(float((high - low).max()), 1e-9)
    chosen: list[int] = []
    for index in range(len(scaled)):
        if len(chosen) == most:
            break
        if not chosen or float((scaled[chosen] - scaled[index]).abs().amax(dim=1).min()) >= distance:
            chosen.append(index)
    return chosen


def _k_means(rows: NDArray[np.float64], clusters: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cluster of each row, the largest cluster first, and the distance of each row to its centre."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(rows.round(9), axis=0))
    fitted = KMeans(min(clusters, distinct), n_init=4, random_state=0).fit(rows)  # pyright: ignore[reportArgumentType]  # untyped
    labels: NDArray[np.int32] = np.asarray(fitted.labels_)
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(by_size)
    rank[by_size] = np.arange(len(by_size))
    return rank[labels].astype(np.int64), np.asarray(fitted.transform(rows)).min(axis=1)


def nearest_texts(
    directions: Float[Tensor, "direction embed"], text_embed: Float[Tensor, "text embed"], texts: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The few texts that lie most in each direction from the mean text, the most first, each named once."""
    from_mean = torch.nn.functional.normalize(text_embed - text_embed.mean(dim=0), dim=-1)
    order = (directions @ from_mean.T).argsort(dim=1, descending=True, stable=True)
    words = list(texts)
    return tuple(tuple(dict.fromkeys(words[i] for i in row[:12].tolist()))[:3] for row in order)


def _names(
    centres: Tensor, image_embed: Tensor, text_embed: Tensor, texts: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    # Each modality less its own mean: the gap between them would otherwise make the same few texts nearest to all.
    return nearest_texts(centres - image_embed.mean(dim=0), text_embed, texts)
