"""What is taken for what: between categories as a matrix, between many classes as a list of the worst pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip_eval.groups import Groups

MOST_NAMES = 30
"""Rows of a matrix that still reads."""


@dataclass(frozen=True)
class Matrix:
    """`counts[i, j]` pictures of `names[i]` whose likeliest class is one of `names[j]`."""

    names: tuple[str, ...]
    counts: Int[Tensor, "group group"]


@dataclass(frozen=True)
class Pair:
    """Pictures of one class whose likeliest class is a certain other one."""

    truth: str
    taken_for: str
    count: int
    of: int
    """Pictures of the class in all."""


def confusion_matrix(
    labels: Int[Tensor, " sample"],
    predicted: Int[Tensor, " sample"],
    class_names: Sequence[str],
    groups: Groups | None,
) -> Matrix | None:
    """Between categories, else between classes; None where either would be more than `MOST_NAMES`.

    A category of a predicted class is that of most of its pictures. A class without a picture has none and counts
    under a last name, "no category", which stands only where it is needed.
    """
    if groups is None:
        names, truth, said = tuple(class_names), labels, predicted
    else:
        names, truth = groups.names, groups.of_sample
        said = category_of_class(labels, groups, len(class_names))[predicted]
        if bool((said == len(names)).any()):
            names = (*names, "no category")
    size = len(names)
    if not 2 <= size <= MOST_NAMES:
        return None
    return Matrix(names, torch.bincount(truth * size + said, minlength=size * size).reshape(size, size))


def category_of_class(labels: Int[Tensor, " sample"], groups: Groups, num_classes: int) -> Int[Tensor, " class"]:
    """The category of most of a class's pictures, the first among equals; the number of categories where it has none."""
    size = len(groups.names)
    counts = torch.bincount(labels * size + groups.of_sample, minlength=num_classes * size).reshape(num_classes, size)
    return torch.where(counts.sum(dim=1) > 0, counts.argmax(dim=1), size)


def worst_pairs(
    labels: Int[Tensor, " sample"], predicted: Int[Tensor, " sample"], class_names: Sequence[str], count: int
) -> list[Pair]:
    """`pairs_of` single predictions."""
    codes, numbers = torch.unique(labels * len(class_names) + predicted, return_counts=True)
    cells = zip(codes.tolist(), numbers.tolist(), strict=True)
    return pairs_of([(code // len(class_names), code % len(class_names), n) for code, n in cells], class_names, count)


def pairs_of(cells: Sequence[tuple[int, int, int]], class_names: Sequence[str], count: int) -> list[Pair]:
    """The pairs of classes that are mixed up most often, by number of pictures, then by share of the true class.

    `cells` are all that is not 0 of the confusion matrix: true class, predicted class, pictures. A pair of one picture
    tells nothing of the classes and is left out.
    """
    totals = Counter[int]()
    for truth, _, number in cells:
        totals[truth] += number
    pairs = [(truth, said, number) for truth, said, number in cells if truth != said and number > 1]
    pairs.sort(key=lambda pair: (-pair[2], totals[pair[0]], pair[0], pair[1]))
    return [Pair(class_names[truth], class_names[said], n, totals[truth]) for truth, said, n in pairs[:count]]
