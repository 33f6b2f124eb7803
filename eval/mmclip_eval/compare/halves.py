"""Random halves, by a fixed draw: what a model differs from itself by when only a part of it, or of its samples, is seen."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

DRAWS = 4
SEED = 0

Halves = tuple[Int[Tensor, " half"], Int[Tensor, " other_half"]]


def halves(count: int, draws: int = DRAWS, stream: int = 0) -> Iterator[Halves]:
    """Two halves of `count` things, in `draws` random ways; of an odd number one is left out.

    Raises:
        ValueError: there are fewer than two.
    """
    if count < 2:
        raise ValueError(f"{count} things have no halves")
    for number in range(draws):
        keys = np.random.Philox(key=[SEED, (stream << 8) + number]).random_raw(count)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        middle = count // 2
        yield order[:middle].sort().values, order[middle : 2 * middle].sort().values


def mean_over_halves(count: int, figure: Callable[[Tensor, Tensor], float], stream: int = 0) -> float:
    """The mean of a figure between two halves."""
    found = [figure(first, second) for first, second in halves(count, stream=stream)]
    return sum(found) / len(found)


def permuted(count: int, stream: int = 0) -> Int[Tensor, " row"]:
    """A fixed order of `count` rows in which nearly none is where it was."""
    keys = np.random.Philox(key=[SEED, (1 << 20) + stream]).random_raw(count)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
