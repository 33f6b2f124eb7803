"""`representation_panel`: all layers of one tower of two models side by side.

panel = representation_panel(images_a, images_b, against=[images_c, images_d])
panel.cka                          [layer, other layer]
panel.pairs[-1].figures["cka"]     of the two embeddings, an `Anchored`
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.frozen import TowerName
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.compare.representation.anchors import LayerPair, compare_layers, drawn_rows
from mmclip_eval.compare.representation.cka_matrix import cka_matrix
from mmclip_eval.compare.representation.matching import matched_layers
from mmclip_eval.compare.representation.pair import LEAST_ROWS, Features, check_finite

MATRIX_ROWS = 2000
"""Rows of the matrix of all layers by all layers: a fixed draw. The debiased estimate is the same on average for any number."""
MOST_THREADS = 4
Track = Callable[[int, int], None]
"""Called with the pairs of layers that are done and those in all."""


@dataclass(frozen=True)
class Panel:
    """What the layers of one tower of A and of B have in common."""

    tower: TowerName
    rows: int
    layers: tuple[str, ...]
    """A's."""
    other_layers: tuple[str, ...]
    """B's."""
    cka: Float[Tensor, "layer other_layer"]
    """Debiased linear CKA of each with each; nan where one of the two has collapsed."""
    pairs: tuple[LayerPair, ...]
    """Layers that stand beside each other, from the input on, the embeddings last."""


def representation_panel(
    a: LayerFeatures,
    b: LayerFeatures,
    against: Sequence[LayerFeatures] = (),
    *,
    seed: int = 0,
    track: Track | None = None,
) -> Panel:
    """Compare the layers of A with those of B; `against` are independent models, such as other seeds of A's training.

    Rows are those of `LayerFeatures.kept`, which must be the same (`shared_rows`). Every draw follows from `seed`.

    Raises:
        UserError: other rows or towers, fewer than 20 rows, or features that are not finite.
    """
    for place, other in enumerate((a, b, *against)):
        _refuse_others(a, other)
        for name, features in zip(other.names, other.features, strict=True):
            check_finite(_array(features), f"features of {name} of model {place + 1}")
    if len(a) < LEAST_ROWS:
        raise UserError(f"compare: {len(a)} rows are too few to say anything: expected at least {LEAST_ROWS}")
    names = matched_layers(a.names, b.names)
    independent = [(other, dict(matched_layers(a.names, other.names))) for other in against]

    def compared(pair: tuple[str, str]) -> LayerPair:
        own, beside = pair
        others = [_array(other[names[own]]) for other, names in independent if own in names]
        return compare_layers(pair, _array(a[own]), _array(b[beside]), others, seed)

    with _threads() as pool:
        rows = drawn_rows(len(a), MATRIX_ROWS, seed)
        layers, others = ([_array(one)[rows] for one in features.features] for features in (a, b))
        matrix = pool.submit(cka_matrix, layers, others)
        pairs: list[LayerPair] = []
        for pair in pool.map(compared, names):
            pairs.append(pair)
            if track is not None:
                track(len(pairs), len(names))
    return Panel(a.tower, len(a), a.names, b.names, torch.from_numpy(matrix.result()), tuple(pairs))


def _array(features: Tensor) -> Features:
    return features.numpy()


def _refuse_others(a: LayerFeatures, b: LayerFeatures) -> None:
    if a.tower != b.tower:
        raise UserError(
            f"compare: layers of the {a.tower} tower beside those of the {b.tower} tower: expected the same"
        )
    if not torch.equal(a.kept, b.kept):
        raise UserError(
            f"compare: features of {len(a):,} and of {len(b):,} rows that are not the same examples: take those that both "
            "models have (shared_rows)"
        )


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A pair of layers a thread, each of them by one thread of the matrix library: the same bits on any machine."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with threadpool_limits(1), ThreadPoolExecutor(min(MOST_THREADS, cores)) as pool:
        yield pool
