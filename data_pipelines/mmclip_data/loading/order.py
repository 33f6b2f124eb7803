"""What every order of samples is: a pure function from a position of the run to a sample, so the state is one integer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.randomness import Stream, integer, words

ORDER_VERSION = 1
"""Part of the order: a change of its arithmetic needs a new number, so that a resumed run is refused, not altered."""
DRAWS_IN_BLOCK = 1024
"""Positions whose draws are made together: a call of the generator costs as much as a hundred of its words."""


class Pool(NamedTuple):
    """Where the replacement of a bad sample may come from: shards `first` to `end - 1`, and how many samples they hold."""

    first: int
    end: int
    samples: int


class Order(ABC):
    """Positions to (shard, row)."""

    seed: int
    samples_per_epoch: int

    @abstractmethod
    def fingerprint(self, source_fingerprint: str, consumed: int | None = None) -> str:
        """32 hex digits that name the order of the first `consumed` samples (of all, without it)."""

    @abstractmethod
    def locate(self, position: int) -> tuple[int, int]:
        """The shard and the row in it of the sample at a position."""

    def locate_all(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """`locate` of many positions, for orders that can do it faster together."""
        return [self.locate(position) for position in positions]

    @abstractmethod
    def places(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """A number in [0, 1) for each position; samples that lie together have numbers close together."""

    @abstractmethod
    def pool(self, position: int) -> Pool:
        """Where a replacement for the sample at a position may come from."""

    def substitute(self, position: int, attempt: int) -> tuple[int, int]:
        """The shard and row to try in place of a bad sample: a draw from its own source."""
        return self.locate(integer(self.seed + attempt, Stream.REPLACEMENT, position, self.samples_per_epoch))

    def batch(self, start: int, size: int) -> NDArray[np.int64]:
        """The positions [start, start + size), those that lie together side by side."""
        positions = np.arange(start, start + size, dtype=np.int64)
        return positions[np.argsort(self.places(positions), kind="stable")]

    def rank_slice(self, start: int, global_batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """One rank's contiguous part of the batch that begins at `start`."""
        share = global_batch_size // world_size
        return self.batch(start, global_batch_size)[rank * share : (rank + 1) * share]


class Draws(Order):
    """With replacement: each position is a draw of its own among all samples; an epoch is as many draws as samples.

    A batch is sorted by what was drawn, so a rank reads about its share of the shards here too. One sample may stand twice
    in a batch.
    """

    def __init__(self, seed: int, shard_sizes: NDArray[np.int64]) -> None:
        self.seed = seed
        self.ends = np.cumsum(np.asarray(shard_sizes, dtype=np.int64))
        self.samples_per_epoch = int(self.ends[-1])

    def fingerprint(self, source_fingerprint: str, consumed: int | None = None) -> str:
        parts = (ORDER_VERSION, "replacement", self.seed, source_fingerprint)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def locate(self, position: int) -> tuple[int, int]:
        block, place = divmod(position, DRAWS_IN_BLOCK)
        drawn = int(_draws(self.seed, block)[place]) * self.samples_per_epoch >> 64
        shard = int(np.searchsorted(self.ends, drawn, side="right"))
        return shard, drawn - (int(self.ends[shard - 1]) if shard else 0)

    def places(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        blocks, places = np.divmod(positions, DRAWS_IN_BLOCK)
        drawn = np.empty(len(positions), dtype=np.uint64)
        for block in np.unique(blocks).tolist():
            inside = blocks == block
            drawn[inside] = _draws(self.seed, block)[places[inside]]
        return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def pool(self, position: int) -> Pool:
        return Pool(0, len(self.ends), self.samples_per_epoch)


@lru_cache(maxsize=256)
def _draws(seed: int, block: int) -> NDArray[np.uint64]:
    return words(seed, Stream.DRAW, block, DRAWS_IN_BLOCK)
