"""The shards that the plan will need, fetched whole into the cache, in the order of need and as far as there is room."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmclip_data.stores.background import Background
from mmclip_data.stores.reader import RemoteReader
from mmclip_data.stores.shard import WORTH_A_DOWNLOAD, RemoteShard
from mmclip_data.stores.waits import LOOK_SECONDS


class Need(NamedTuple):
    """A shard of which `rows` samples will be read, while this process reads its samples number `since` to `until`."""

    shard: int
    rows: int
    since: int
    until: int


class ShardsAhead(Background):
    """`needs` come in the order in which shards are first needed, and may be endless; so many `downloads` at a time."""

    def __init__(self, readers: Sequence[RemoteReader | None], needs: Iterator[Need], downloads: int) -> None:
        super().__init__()
        self.readers = readers
        self.downloads = downloads
        self._needs = needs
        self._ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._wishes: deque[RemoteShard] = deque()
        self._wished: set[int] = set()
        self._pending: Need | None = None
        self._planned: dict[int, int] = {}
        """Shards of the plan that are here or on their way, and until when."""

    def wish(self, shard: RemoteShard) -> None:
        """Wish for a shard, of which much is read by ranges; each is taken up once."""
        with self.state:
            if id(shard) not in self._wished:
                self._wished.add(id(shard))
                self._wishes.append(shard)
                self.state.notify_all()

    def step(self) -> bool:
        with self.turn:
            shard = self._next()
        if shard is None:
            return False
        self._fetch(shard)
        return True

    def _next(self) -> RemoteShard | None:
        while not self.closed:
            with self.state:
                wished = self._wishes.popleft() if self._wishes else None
            shard = wished or self._next_needed()
            if shard is not None:
                return shard
            with self.state:
                if not self.closed and not self._wishes:
                    self.state.wait(LOOK_SECONDS)
        return None

    def _next_needed(self) -> RemoteShard | None:
        """The next shard of the plan that is worth it, if its time is near and there is room beside those still needed."""
        self._planned = {shard: until for shard, until in self._planned.items() if until > self.reads}
        while not self.closed and (need := self._pending or next(self._needs, None)) is not None:
            self._pending = need
            if need.since > self.reads + (need.until - need.since):
                return None
            reader = self.readers[need.shard]
            if reader is not None and self._is_worth_it(need, reader):
                if self._planned_bytes(need.shard, reader) + reader.tar.size > self._room(reader):
                    return None
                self._pending = None
                self._planned[need.shard] = max(need.until, self._planned.get(need.shard, 0))
                return reader.tar
            self._pending = None
        return None

    def _is_worth_it(self, need: Need, reader: RemoteReader) -> bool:
        is_over = need.until < self.reads
        is_much = need.rows * WORTH_A_DOWNLOAD >= reader.index.num_samples
        return is_much and not is_over and reader.tar.stores.config.mode != "range"

    def _room(self, reader: RemoteReader) -> int:
        """This rank's share of the cache; the loader processes of a rank want the same shards."""
        return reader.tar.stores.cache.max_bytes // self._ranks

    def _planned_bytes(self, beside: int, reader: RemoteReader) -> int:
        others = (self.readers[shard] for shard in self._planned if shard != beside)
        return sum(other.tar.size for other in others if other and other.tar.stores is reader.tar.stores)

    def _fetch(self, shard: RemoteShard) -> None:
        while not self.closed and not shard.is_local:
            with shard.stores.cache.slot(self.downloads) as free:
                if free:
                    shard.fetch(wait=False)  # False: another process is at it, or there is no room
                    return
            with self.state:
                if not self.closed:
                    self.state.wait(LOOK_SECONDS)
