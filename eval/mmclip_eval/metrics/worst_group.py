"""The accuracy of the group that fares worst, among the groups that are large enough to say something."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmclip_eval.metrics.bootstrap import Interval, lowest_interval

MIN_GROUP_SIZE = 50
"""At half right, the 95 % interval of 50 samples is 28 points wide; of four it is everything."""


@dataclass(frozen=True)
class WorstGroup:
    """The accuracy of each group, and which are compared."""

    accuracy: tuple[float | None, ...]
    """None for a group without a sample."""
    size: tuple[int, ...]
    compared: tuple[int, ...]
    """Indices of the groups that are large enough and not left out by name."""
    worst: int
    """Index of the lowest; the first of equals."""
    interval: Interval

    @property
    def value(self) -> float:
        accuracy = self.accuracy[self.worst]
        assert accuracy is not None, "a compared group has samples"
        return accuracy

    @property
    def not_compared(self) -> tuple[int, ...]:
        """Groups with samples that were not compared."""
        return tuple(i for i, size in enumerate(self.size) if size and i not in self.compared)


def worst_group(
    correct: Bool[Tensor, " sample"],
    group: Int[Tensor, " sample"],
    groups: int,
    min_size: int = MIN_GROUP_SIZE,
    left_out: Sequence[int] = (),
) -> WorstGroup:
    """Compare the groups of at least `min_size` samples, but for those `left_out`.

    Raises:
        ValueError: no group is large enough.
    """
    size = torch.bincount(group, minlength=groups)
    hits = torch.bincount(group, weights=correct.double(), minlength=groups)
    compared = [i for i in range(groups) if size[i] >= max(min_size, 1) and i not in left_out]
    if not compared:
        raise ValueError(f"no group has {min_size} samples: the largest has {int(size.max())}")
    accuracy = [float(hits[i] / size[i]) if size[i] else None for i in range(groups)]
    worst = min(compared, key=lambda i: float(hits[i] / size[i]))
    interval = lowest_interval(hits[compared].long().tolist(), size[compared].tolist())
    return WorstGroup(tuple(accuracy), tuple(size.tolist()), tuple(compared), worst, interval)
