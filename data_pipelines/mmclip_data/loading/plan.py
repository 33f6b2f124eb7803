"""The plan: which sample stands at which position of a run. A pure function, so the state of the data is one integer.

Epochs lie end to end on one line: positions [e N, (e + 1) N) hold each of the N samples once, shard after shard in an
order keyed by the epoch. An epoch is cut into nearly equal blocks of about `lanes * window` samples, a block into `lanes`
lanes of neighbours, and each lane is permuted by itself. Consecutive positions take one sample of each lane in turn.

A batch is any run of consecutive positions, put in lane order. So the global batch does not know how many ranks or
workers there are, and a rank's contiguous slice of it falls into its own lanes: it reads about its share of the shards.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.randomness import Stream, permutation
from mmclip_data.loading.order import ORDER_VERSION, Order, Pool

Blocks = TypeVar("Blocks", int, NDArray[np.int64])
EPOCHS_KEPT = 8


@config
class PlanConfig:
    """How strongly the order is shuffled, and how local its reads are."""

    sampling: Literal["epoch", "replacement"] = "epoch"
    """Each sample once an epoch, or each position a draw of its own among all samples (then without lanes and window)."""
    lanes: int = 64
    """Parallel places that a batch draws from; sources with few shards get fewer (half their number of shards)."""
    window: int = 16384
    """Samples of a lane that are shuffled together: several shards."""


class Plan(Order):
    """Each sample of shards of the given sizes once an epoch."""

    def __init__(self, config: PlanConfig, seed: int, shard_sizes: NDArray[np.int64]) -> None:
        if config.lanes < 1 or config.window < 1:
            raise UserError(f"data.plan: lanes={config.lanes} and window={config.window} must be at least 1")
        self.seed = seed
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.samples_per_epoch = int(self.shard_sizes.sum())
        self.lanes = max(1, min(config.lanes, len(self.shard_sizes) // 2))
        self.window = config.window
        self._orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self.blocks = -(-self.samples_per_epoch // (self.lanes * config.window))

    def fingerprint(self, source_fingerprint: str, consumed: int | None = None) -> str:
        parts = (ORDER_VERSION, self.seed, source_fingerprint, self.lanes, self.window)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def locate(self, position: int) -> tuple[int, int]:
        epoch, block = self._block_of(position)
        start, end = self._block_bounds(block)
        index, lane = divmod(position - epoch * self.samples_per_epoch - start, self.lanes)
        short, longer = divmod(end - start, self.lanes)
        length = short + (lane < longer)
        lane_number = (epoch * self.blocks + block) * self.lanes + lane
        line = start + lane * short + min(lane, longer) + _lane_order(self.seed, lane_number, length)[index]
        order, starts = self._epoch_shards(epoch)
        place = int(np.searchsorted(starts, line, side="right")) - 1
        return int(order[place]), line - int(starts[place])

    def locate_all(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        # The arithmetic of `locate`, done at once for each block: a batch seldom lies in two.
        given = np.asarray(positions, dtype=np.int64)
        if not len(given) or self._block_of(int(given.min())) == self._block_of(int(given.max())):
            return self._locate_in_block(given)
        epochs, offsets = np.divmod(given, self.samples_per_epoch)
        blocks = epochs * self.blocks + ((offsets + 1) * self.blocks - 1) // self.samples_per_epoch
        found: list[tuple[int, int]] = [(0, 0)] * len(given)
        for block in np.unique(blocks).tolist():
            chosen = np.flatnonzero(blocks == block)
            for row, place in zip(chosen.tolist(), self._locate_in_block(given[chosen]), strict=True):
                found[row] = place
        return found

    def _locate_in_block(self, positions: NDArray[np.int64]) -> list[tuple[int, int]]:
        if not len(positions):
            return []
        epoch, block = self._block_of(int(positions[0]))
        start, end = self._block_bounds(block)
        indexes, lanes = np.divmod(positions - (epoch * self.samples_per_epoch + start), self.lanes)
        short, longer = divmod(end - start, self.lanes)
        number = (epoch * self.blocks + block) * self.lanes
        permuted = [
            _lane_order(self.seed, number + lane, short + (lane < longer))[index]
            for lane, index in zip(lanes.tolist(), indexes.tolist(), strict=True)
        ]
        lines = start + lanes * short + np.minimum(lanes, longer) + np.array(permuted, dtype=np.int64)
        order, firsts = self._epoch_shards(epoch)
        found = firsts.searchsorted(lines, side="right") - 1
        return list(zip(order[found].tolist(), (lines - firsts[found]).tolist(), strict=True))

    def _block_of(self, position: int) -> tuple[int, int]:
        """The epoch of a position, and its block in that epoch."""
        epoch, offset = divmod(position, self.samples_per_epoch)
        return epoch, ((offset + 1) * self.blocks - 1) // self.samples_per_epoch

    def places(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """The lane of each position, as a fraction of the lanes."""
        offsets = positions % self.samples_per_epoch
        blocks = ((offsets + 1) * self.blocks - 1) // self.samples_per_epoch
        lanes = (offsets - blocks * self.samples_per_epoch // self.blocks) % self.lanes
        return lanes / self.lanes

    def pool(self, position: int) -> Pool:
        return Pool(0, len(self.shard_sizes), self.samples_per_epoch)

    def _block_bounds(self, block: Blocks) -> tuple[Blocks, Blocks]:
        return block * self.samples_per_epoch // self.blocks, (block + 1) * self.samples_per_epoch // self.blocks

    def _epoch_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        known = self._orders.get(epoch)
        if known is None:
            order = permutation(self.seed, Stream.SHARD_ORDER, epoch, len(self.shard_sizes))
            starts = np.zeros_like(order)
            np.cumsum(self.shard_sizes[order[:-1]], out=starts[1:])
            known = order, starts
            if len(self._orders) >= EPOCHS_KEPT:
                self._orders = {}  # another one: threads may be reading this one
            self._orders[epoch] = known
        return known


# 64 lanes of two neighbouring blocks, and the epochs they stand in.
@lru_cache(maxsize=256)
def _lane_order(seed: int, lane_number: int, length: int) -> memoryview:
    """As memory, because one number of it is asked for at a time."""
    return permutation(seed, Stream.LANE_ORDER, lane_number, length).data
