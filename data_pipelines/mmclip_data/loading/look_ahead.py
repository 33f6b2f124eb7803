"""What the order of samples says about the reads to come, for sources whose shards are on a store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

from mmclip_data.loading.order import Order
from mmclip_data.loading.sources import Source
from mmclip_data.stores import LookAhead, Need, PlannedRead, RemoteReader

WINDOW = 1 << 20
"""Positions for which the shards are found out together: as many as the plan shuffles together."""
LOOKED_AT = 1 << 14
"""Of those, how many are looked at: enough to find each shard of some size, in half a second."""


@runtime_checkable
class OnStores(Protocol):
    """A source some shards of which may be on a store."""

    @property
    def remote_readers(self) -> Sequence[RemoteReader | None]:
        """One a shard, in the order of `shard_sizes`; None for a file of this machine."""
        ...


def is_on_stores(source: Source) -> bool:
    """Whether any shard of the source is on a store."""
    return isinstance(source, OnStores) and any(reader is not None for reader in source.remote_readers)


def look_ahead(source: Source, slices: "Slices") -> LookAhead | None:
    """Begin to fetch what this process will read, for as long as the result is kept; None where nothing is on a store."""
    readers = source.remote_readers if isinstance(source, OnStores) else ()
    remote = next((reader for reader in readers if reader is not None), None)
    if remote is None:
        return None
    return LookAhead(remote.tar.stores, readers, slices.reads(), slices.needs())


@dataclass(frozen=True)
class Slices:
    """One rank's slices of the batches from position `start` on; of every `workers`-th, the `number`-th being the first."""

    order: Order
    start: int
    size: int
    rank: int
    world_size: int
    number: int = 0
    workers: int = 1

    def reads(self) -> Iterator[PlannedRead]:
        """Every read of this process, in its order."""
        for batch in count(self.start + self.number * self.size, self.size * self.workers):
            for place in self.order.locate_all(self._positions(batch)):
                yield PlannedRead(*place)

    def needs(self) -> Iterator[Need]:
        """The shards of the rank, window by window, in the order in which they are first needed."""
        batches = max(1, min(WINDOW, self.order.samples_per_epoch) // self.size)
        stride = max(1, batches * (self.size // self.world_size) // LOOKED_AT)
        reads = batches * (self.size // self.world_size)
        for window in count():
            rows: dict[int, int] = {}
            for number in range(batches):
                looked_at = self._positions(self.start + (window * batches + number) * self.size)[
                    number % stride :: stride
                ]
                for shard, _ in self.order.locate_all(looked_at):
                    rows[shard] = rows.get(shard, 0) + stride
            for shard, needed in rows.items():
                yield Need(shard, needed, window * reads // self.workers, (window + 1) * reads // self.workers)

    def _positions(self, batch: int) -> list[int]:
        return self.order.rank_slice(batch, self.size, self.rank, self.world_size).tolist()
