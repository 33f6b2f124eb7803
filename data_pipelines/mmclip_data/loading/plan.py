"""The plan: which sample stands at which position of a run. A pure function, so the state of the data is one integer.

Epochs lie end to end on one line: positions [e N, (e + 1) N) hold each of the N samples once, shard after shard in an
order keyed by the epoch. An epoch is cut into nearly equal blocks of about `lanes * window` samples, a block into `lanes`
lanes of neighbours, and each lane is permuted by itself. Consecutive positions take one sample of each lane in turn.

A batch is any run of consecutive positions, put in lane order. So the global batch does not know how many ranks or
workers there are, and a rank's contiguous slice of it falls into its own lanes: it reads about its share of the shards.
"""

from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.randomness import Stream, permutation

ORDER_VERSION = 1
"""Part of the order: a change of the arithmetic below needs a new number, so that a resumed run is refused, not altered."""


@config
class PlanConfig:
    """How strongly the order is shuffled, and how local its reads are."""

    lanes: int = 64
    """Parallel places that a batch draws from; sources with few shards get fewer (half their number of shards)."""
    window: int = 16384
    """Samples of a lane that are shuffled together: several shards."""


class Plan:
    """Positions to (shard, row), for shards of the given sizes."""

    def __init__(self, config: PlanConfig, seed: int, shard_sizes: NDArray[np.int64]) -> None:
        if config.lanes < 1 or config.window < 1:
            raise UserError(f"data.plan: lanes={config.lanes} and window={config.window} must be at least 1")
        self.seed = seed
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.samples_per_epoch = int(self.shard_sizes.sum())
        self.lanes = max(1, min(config.lanes, len(self.shard_sizes) // 2))
        self.window = config.window
        self.blocks = -(-self.samples_per_epoch // (self.lanes * config.window))

    def fingerprint(self, source_fingerprint: str) -> str:
        """32 hex digits that name the order itself: equal ones hand out equal samples at equal positions."""
        parts = (ORDER_VERSION, self.seed, source_fingerprint, self.lanes, self.window)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def batch(self, start: int, size: int) -> NDArray[np.int64]:
        """The positions [start, start + size) in lane order."""
        positions = np.arange(start, start + size, dtype=np.int64)
        return positions[np.argsort(self._lane_of(positions), kind="stable")]

    def rank_slice(self, start: int, global_batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """One rank's contiguous part of the batch that begins at `start`."""
        share = global_batch_size // world_size
        return self.batch(start, global_batch_size)[rank * share : (rank + 1) * share]

    def locate(self, position: int) -> tuple[int, int]:
        """The shard and the row in it of the sample at a position."""
        epoch, offset = divmod(position, self.samples_per_epoch)
        block = ((offset + 1) * self.blocks - 1) // self.samples_per_epoch
        start, end = self._block_bounds(block)
        index, lane = divmod(offset - start, self.lanes)
        short, longer = divmod(end - start, self.lanes)
        length = short + (lane < longer)
        lane_number = (epoch * self.blocks + block) * self.lanes + lane
        line = start + lane * short + min(lane, longer) + int(_lane_order(self.seed, lane_number, length)[index])
        order, starts = self._epoch_shards(epoch)
        place = int(np.searchsorted(starts, line, side="right")) - 1
        return int(order[place]), line - int(starts[place])

    def _lane_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets = positions % self.samples_per_epoch
        blocks = ((offsets + 1) * self.blocks - 1) // self.samples_per_epoch
        return (offsets - blocks * self.samples_per_epoch // self.blocks) % self.lanes

    def _block_bounds(self, block: int) -> tuple[int, int]:
        return block * self.samples_per_epoch // self.blocks, (block + 1) * self.samples_per_epoch // self.blocks

    def _epoch_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _shard_order(self.seed, epoch, self.shard_sizes.tobytes())


# 64 lanes of two neighbouring blocks, and the epochs they stand in.
@lru_cache(maxsize=256)
def _lane_order(seed: int, lane_number: int, length: int) -> NDArray[np.int64]:
    return permutation(seed, Stream.LANE_ORDER, lane_number, length)


@lru_cache(maxsize=8)
def _shard_order(seed: int, epoch: int, sizes: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shard_sizes = np.frombuffer(sizes, dtype=np.int64)
    order = permutation(seed, Stream.SHARD_ORDER, epoch, len(shard_sizes))
    return order, np.concatenate([[0], np.cumsum(shard_sizes[order])[:-1]])
