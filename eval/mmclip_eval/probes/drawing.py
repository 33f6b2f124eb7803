"""Which examples of a training set are taken: a few of each class, or some of each held out."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmclip_eval.probes.logistic import Examples


def draw_shots(labels: Int[Tensor, " example"], shots: int, seed: int) -> Int[Tensor, " shot"]:
    """Indices of `shots` examples of every class that occurs, in the order of the set.

    Of one seed, fewer shots are among more shots.

    Raises:
        ValueError: a class has fewer.
    """
    place = _place_in_class(labels, seed)
    few = torch.bincount(labels)[labels] < shots
    if bool(few.any()):
        label = int(labels[few][0])
        raise ValueError(f"class {label} has {int((labels == label).sum())} examples: expected at least {shots}")
    return (place < shots).nonzero()[:, 0]


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split into the rest and a `fraction` of each class, which leaves every class an example to learn from.

    Raises:
        ValueError: no class has two examples.
    """
    size = torch.bincount(examples.labels)[examples.labels]
    held = (fraction * size).round().clamp(min=1)
    chosen = _place_in_class(examples.labels, seed) < torch.where(size > 1, held.clamp(max=size - 1), 0)
    if not bool(chosen.any()):
        raise ValueError("no class has two examples, so none can be held out")
    return examples.at((~chosen).nonzero()[:, 0]), examples.at(chosen.nonzero()[:, 0])


def _place_in_class(labels: Tensor, seed: int) -> Tensor:
    """Each example's place in a shuffled list of its class."""
    key = torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).random(len(labels)))
    order = key.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    first = torch.bincount(labels).cumsum(0) - torch.bincount(labels)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(labels)) - first[labels[order]]
    return place
