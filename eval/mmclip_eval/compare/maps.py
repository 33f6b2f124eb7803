"""Maps of two models over the same pictures: the same plane, and how far they group the pictures alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.analysis.embedding_map import (
    CLUSTER_DIMENSIONS,
    MOST_CLUSTERS,
    MOST_POINTS,
    nearest_texts,
    principal_components,
)
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.compare.clusters import (
    Agreement,
    Group,
    Labels,
    Rows,
    adjusted_mutual_information,
    adjusted_rand,
    agreement,
    criterion,
    k_means,
    mixture,
    renumbered,
)
from mmclip_eval.sparse.units import Texts

LEAST_PICTURES = 16
MIXTURE_DIMENSIONS = 8
"""A full covariance in more of them has more numbers than a component has pictures."""
RESTARTS = 3
"""Of A's grouping, for the ceiling."""
MOST_COMPONENTS = 8
"""Of the mixtures that are tried."""


@dataclass(frozen=True)
class Grouping:
    """A grouping of the pictures by each model, numbered so that groups which share pictures share a number."""

    kind: str
    """`k-means` or `Gaussian mixture`."""
    a: Int[Tensor, " point"]
    b: Int[Tensor, " point"]
    names_a: tuple[str, ...]
    """A name for each number, by the model's own texts; numbers are called groups where there are none."""
    names_b: tuple[str, ...]
    rand: Agreement
    """Adjusted Rand index."""
    information: Agreement
    """Adjusted mutual information."""


@dataclass(frozen=True)
class TwinMaps:
    """The same pictures as points of A and of B."""

    samples: list[int]
    """Which rows the points are."""
    a: Float[Tensor, "point 2"]
    """On A's two principal components."""
    b: Float[Tensor, "point 2"]
    """On B's, turned (and mirrored, where need be) so that the points lie as near to A's as they can."""
    explained: tuple[float, float]
    """Share of each model's variance that its plane holds."""
    likeness: float
    """Of the two planes: the correlation of their points after the turn, 1 for equal shapes (orthogonal Procrustes)."""
    likeness_floor: float
    """The same where the pictures of B are permuted."""
    groupings: tuple[Grouping, ...]
    criterion: tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]
    """Of A and of B: number of components, Bayesian information criterion for each picture."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the points."""
        return {
            "pictures": len(self.samples),
            "plane": {
                "explained": {"a": self.explained[0], "b": self.explained[1]},
                "likeness": self.likeness,
                "likeness_of_permuted_pictures": self.likeness_floor,
            },
            "groupings": [
                {
                    "kind": one.kind,
                    "names": {"a": list(one.names_a), "b": list(one.names_b)},
                    "adjusted_rand_index": one.rand.to_json(),
                    "adjusted_mutual_information": one.information.to_json(),
                }
                for one in self.groupings
            ],
            "bayesian_information_criterion": {
                name: [{"components": count, "for_each_picture": value} for count, value in found]
                for name, found in zip(("a", "b"), self.criterion, strict=True)
            },
        }


def twin_maps(
    a: Float[Tensor, "a_row a_width"],
    b: Float[Tensor, "b_row b_width"],
    a_texts: Texts | None = None,
    b_texts: Texts | None = None,
) -> TwinMaps:
    """Map (a fixed draw of) the pictures by both models; texts are the same for both, each with its own embeddings.

    Raises:
        UserError: the models have not the same pictures, there are too few, or one model has them all in one point.
    """
    _check(a, b)
    samples = draw(MOST_POINTS, len(a), stream=1)
    both = [side[torch.tensor(samples)].double().cpu().numpy() for side in (a, b)]
    (points_a, shares_a), (points_b, shares_b) = (principal_components(rows, CLUSTER_DIMENSIONS) for rows in both)
    plane_a, plane_b = points_a[:, :2], points_b[:, :2]
    turned, likeness = aligned(plane_a, plane_b)
    generator = np.random.Generator(np.random.Philox(key=0))
    floor = np.mean([aligned(plane_a, plane_b[generator.permutation(len(plane_b))])[1] for _ in range(10)])
    count = min(MOST_CLUSTERS, max(2, len(samples) // 8))
    kinds = (("k-means", k_means(count), CLUSTER_DIMENSIONS), ("Gaussian mixture", mixture(count), MIXTURE_DIMENSIONS))
    most = min(MOST_COMPONENTS, len(samples) // 8)
    return TwinMaps(
        samples=samples,
        a=torch.from_numpy(plane_a.copy()).float(),
        b=torch.from_numpy(turned).float(),
        explained=(float(shares_a[:2].sum()), float(shares_b[:2].sum())),
        likeness=likeness,
        likeness_floor=float(floor),
        groupings=tuple(_grouping(*kind, both, (a_texts, b_texts)) for kind in kinds),
        criterion=(
            criterion(points_a[:, :MIXTURE_DIMENSIONS], most),
            criterion(points_b[:, :MIXTURE_DIMENSIONS], most),
        ),
    )


def aligned(to: Rows, points: Rows) -> tuple[Rows, float]:
    """`points` turned about their mean to lie as near to `to` as they can, and their correlation then.

    Orthogonal Procrustes (Schönemann 1966): with M = to' points, the best turn of unit scale is U V' of its singular
    vectors; the correlation is the sum of the singular values over both lengths. Size is left as it is.
    """
    from scipy.linalg import orthogonal_procrustes

    centred, wanted = points - points.mean(axis=0), to - to.mean(axis=0)
    turn, overlap = orthogonal_procrustes(centred, wanted)
    lengths = float(np.linalg.norm(centred) * np.linalg.norm(wanted))
    return centred @ turn, float(overlap) / lengths if lengths > 0 else 0.0


def _grouping(
    kind: str, group: Group, dimensions: int, both: Sequence[Rows], texts: tuple[Texts | None, Texts | None]
) -> Grouping:
    points_a, points_b = (_components(rows, dimensions) for rows in both)
    a, b = group(points_a, 0), group(points_b, 0)
    again = [group(points_a, seed) for seed in range(1, 1 + RESTARTS)]
    measured = [agreement(score, a, b, again) for score in (adjusted_rand, adjusted_mutual_information)]
    b = renumbered(b, like=a)
    numbers = int(max(a.max(), b.max())) + 1
    names = [_names(rows, labels, numbers, own) for rows, labels, own in zip(both, (a, b), texts, strict=True)]
    return Grouping(kind, torch.from_numpy(a), torch.from_numpy(b), names[0], names[1], *measured)


def _names(rows: Rows, labels: Labels, numbers: int, texts: Texts | None) -> tuple[str, ...]:
    plain = tuple(f"group {number + 1}" for number in range(numbers))
    if texts is None or texts.embed.shape[1] != rows.shape[1]:
        return plain
    present = np.unique(labels).tolist()
    from_mean = np.stack([rows[labels == number].mean(axis=0) for number in present]) - rows.mean(axis=0)
    found = nearest_texts(torch.from_numpy(from_mean).float(), texts.embed, texts.texts)
    named = {number: names[0] for number, names in zip(present, found, strict=True)}
    return tuple(named.get(number, plain[number]) for number in range(numbers))


def _components(rows: Rows, most: int) -> Rows:
    return principal_components(rows, most)[0]


def _check(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b):
        raise UserError(f"{len(a)} pictures of A and {len(b)} of B: expected the same pictures in the same order")
    if len(a) < LEAST_PICTURES:
        raise UserError(f"{len(a)} pictures: a map needs {LEAST_PICTURES} at least; take a larger set")
    for name, rows in (("A", a), ("B", b)):
        if float(rows.double().var(dim=0).sum()) < 1e-9:
            raise UserError(
                f"{name} gives all {len(rows)} pictures one embedding: it has collapsed, and there is no map"
            )
