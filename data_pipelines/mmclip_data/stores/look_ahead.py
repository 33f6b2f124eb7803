"""Fetches what the plan will read: samples into memory by ranges, whole shards into the cache, both within bounds.

What a read returns never depends on it: a sample that is not here is read as if there were no look-ahead.
"""

import atexit
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from threading import Condition, Lock, Thread
from typing import NamedTuple

from mmclip.errors import BadSampleError
from mmclip_data.shards.columns import Member
from mmclip_data.stores.reader import RemoteReader
from mmclip_data.stores.shard import WORTH_A_DOWNLOAD, RemoteShard, Stores

MAX_SAMPLES_AHEAD = 1024
SLOT_SECONDS = 0.25
"""Between two looks whether another process has ended a download."""
SECONDS_TO_STOP = 2.0
_running: "weakref.WeakSet[LookAhead]" = weakref.WeakSet()


class PlannedRead(NamedTuple):
    """One read that the plan has in mind."""

    shard: int
    row: int


class Need(NamedTuple):
    """A shard of which `rows` samples will be read, while this process reads its samples number `since` to `until`."""

    shard: int
    rows: int
    since: int
    until: int


class _Sample(NamedTuple):
    payloads: Future[list[bytes]] | None
    """None where the shard is in the cache."""
    size: int


_Work = tuple[RemoteReader, dict[str, Member], Future[list[bytes]]]


class LookAhead:
    """Of one process; `readers` has None for shards that are files of this machine.

    `places` come in the order of reading, `needs` in the order in which shards are first needed; both may be endless.
    """

    def __init__(
        self,
        stores: Stores,
        readers: Sequence[RemoteReader | None],
        places: Iterator[PlannedRead],
        needs: Iterator[Need],
    ) -> None:
        self.config = stores.config
        self.cache = stores.cache
        self.readers = readers
        self._owner = os.getpid()
        self._places, self._needs = places, needs
        self._state = Condition()
        self._samples: dict[tuple[int, int], _Sample] = {}
        self._too_early: set[tuple[int, int]] = set()
        self._bytes = self._reads = 0
        self._turn = Lock()  # who asks the order for the next place; readers do not wait for it
        self._wishes: deque[RemoteShard] = deque()
        self._wished: set[int] = set()
        self._planned: dict[int, int] = {}
        """Shards of the plan that are here or on their way, and until when."""
        self._shard_turn = Lock()
        self._pending: Need | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self._numbers = {id(reader): number for number, reader in enumerate(readers) if reader is not None}
        for reader in readers:
            if reader is not None:
                reader.ahead = reader.tar.requests = weakref.ref(self)
        self._fetches_samples = self.config.mode != "download" and self.config.look_ahead_bytes > 0
        wholes = self.config.downloads if self.config.mode != "range" else 0
        # Readers and threads know it by a weak reference: when the one who reads is gone, so is this, and they end.
        targets = [_fetch_samples] * (self.config.parallel if self._fetches_samples else 0) + [_fetch_shards] * wholes
        for number, target in enumerate(targets):
            Thread(target=target, args=(weakref.ref(self),), daemon=True, name=f"look-ahead-{number}").start()
        _running.add(self)

    def take(self, reader: RemoteReader, sample: int) -> list[bytes] | None:
        """The sample's payloads when they were fetched, waiting for them when they are under way.

        Raises:
            StoreError: the store failed for too long, here or in the background.
        """
        if self._owner != os.getpid():
            return None
        place = (self._numbers[id(reader)], sample)
        with self._state:
            if self._failure is not None:
                raise self._failure
            self._reads += 1
            if not self._fetches_samples:
                return None
            found = self._samples.pop(place, None)
            if found is None:
                self._too_early.add(place)
                return None
            self._bytes -= found.size
            self._state.notify_all()
        return found.payloads.result() if found.payloads is not None else None

    def put(self, shard: RemoteShard) -> None:
        """Wish for a whole shard, of which much is read by ranges; each is taken up once."""
        with self._state:
            if id(shard) not in self._wished:
                self._wished.add(id(shard))
                self._wishes.append(shard)
                self._state.notify_all()

    def close(self) -> None:
        """Let the threads end after what they are at."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def fetch_next_sample(self) -> bool:
        """Fetch one sample more, unless enough are here (then some time passes); False when there is no more to do."""
        with self._state:
            if self._closed:
                return False
            if self._is_full:
                self._state.wait(SLOT_SECONDS)
                return True
        with self._turn:
            place = next(self._places, None)
            if place is None:
                return False
            with self._state:
                work = self._register(place)
        if work is not None:
            reader, members, promise = work
            try:
                promise.set_result(reader.fetch(members))
            except BaseException as error:  # it belongs to the one who asks for the sample
                promise.set_exception(error)
        return True

    @property
    def _is_full(self) -> bool:
        return self._bytes > self.config.look_ahead_bytes or len(self._samples) >= MAX_SAMPLES_AHEAD

    def _register(self, place: PlannedRead) -> _Work | None:
        """Note that the sample is planned, and what there is to fetch for it, if anything."""
        reader, key = self.readers[place.shard], (place.shard, place.row)
        if reader is None:
            return None
        if key in self._too_early:
            self._too_early.discard(key)
            return None
        if key in self._samples:
            return None
        if reader.tar.is_local:
            self._samples[key] = _Sample(None, 0)
            return None
        try:
            members = reader.members(place.row, reader.extensions)
        except BadSampleError:
            self._samples[key] = _Sample(None, 0)  # whoever reads it will be told
            return None
        size = sum(member.size for member in members.values())
        promise: Future[list[bytes]] = Future()
        self._samples[key] = _Sample(promise, size)
        self._bytes += size
        return reader, members, promise

    def fetch_next_shard(self) -> bool:
        """Fetch one whole shard more, unless the room is full of what is still needed; False when there is none."""
        if self._closed or self._failure is not None:
            return False
        with self._shard_turn:
            shard = self._wishes.popleft() if self._wishes else self._next_needed()
        if shard is None:
            with self._state:
                self._state.wait(SLOT_SECONDS)
            return True
        try:
            while not self._closed and not shard.is_local:
                with self.cache.slot(self.config.downloads) as free:
                    if free:
                        shard.fetch(wait=False)  # False: another process is at it, or there is no room
                        break
                time.sleep(SLOT_SECONDS)
        except BaseException as error:  # raised again by the next read
            with self._state:
                self._failure = error
        return True

    def _next_needed(self) -> RemoteShard | None:
        """The next shard of the plan that is worth it, if its time is near and there is room beside those still needed."""
        self._planned = {shard: until for shard, until in self._planned.items() if until > self._reads}
        while (need := self._pending or next(self._needs, None)) is not None:
            self._pending = need
            if need.since > self._reads + (need.until - need.since):
                return None
            reader = self.readers[need.shard]
            if reader is not None and need.rows * WORTH_A_DOWNLOAD >= reader.index.num_samples:
                if self._planned_bytes(need.shard) + reader.tar.size > self._room:
                    return None
                self._pending = None
                self._planned[need.shard] = max(need.until, self._planned.get(need.shard, 0))
                return reader.tar
            self._pending = None
        return None

    @property
    def _room(self) -> int:
        """This rank's share of the cache; the loader processes of a rank want the same shards."""
        return self.cache.max_bytes // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def _planned_bytes(self, beside: int) -> int:
        others = (self.readers[shard] for shard in self._planned if shard != beside)
        return sum(other.tar.size for other in others if other is not None)


def _fetch_samples(ahead: "weakref.ref[LookAhead]") -> None:
    while (alive := ahead()) is not None and alive.fetch_next_sample():
        del alive


def _fetch_shards(ahead: "weakref.ref[LookAhead]") -> None:
    while (alive := ahead()) is not None and alive.fetch_next_shard():
        del alive


@atexit.register
def _close_all() -> None:
    for ahead in list(_running):
        ahead.close()
