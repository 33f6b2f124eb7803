"""Fetches what the plan will read: samples into memory by ranges, whole shards into the cache, both within bounds.

What a read returns never depends on it: a sample that is not here is read as if there were no look-ahead.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from copy import copy

from mmclip_data.stores.background import Background
from mmclip_data.stores.faults import StoreError
from mmclip_data.stores.reader import RemoteReader
from mmclip_data.stores.samples_ahead import Payloads, PlannedRead, SamplesAhead
from mmclip_data.stores.shard import RemoteShard, Stores
from mmclip_data.stores.shards_ahead import Need, ShardsAhead


class LookAhead:
    """Of one process, for as long as somebody keeps it; `readers` has None for shards that are files of this machine.

    `places` come in the order of reading, `needs` in the order in which shards are first needed; both may be endless.
    How much is fetched at a time is for `stores` to say, how a shard is read for its own.
    """

    def __init__(
        self,
        stores: Stores,
        readers: Sequence[RemoteReader | None],
        places: Iterator[PlannedRead],
        needs: Iterator[Need],
    ) -> None:
        self._owner = os.getpid()
        self._numbers = {id(reader): number for number, reader in enumerate(readers) if reader is not None}
        config, modes = stores.config, {reader.tar.stores.config.mode for reader in readers if reader is not None}
        self._samples = SamplesAhead(readers, places, config.look_ahead_bytes)
        self._shards = ShardsAhead(readers, needs, config.downloads)
        # Nothing but the one who reads keeps this object. The threads know its two halves; were it for them to keep it,
        # even one at a time, there would always be one that does.
        weakref.finalize(self, _let_go, self._samples, self._shards).atexit = False
        for reader in readers:
            if reader is not None:
                reader.ahead = reader.tar.requests = weakref.ref(self)
        self._samples.start(config.parallel if modes - {"download"} and config.look_ahead_bytes else 0, "samples-ahead")
        self._shards.start(config.downloads if modes - {"range"} else 0, "shards-ahead")

    @property
    def failure(self) -> BaseException | None:
        """What went wrong in the background, beyond a single sample."""
        return self._samples.failure or self._shards.failure

    def advance(self) -> None:
        """The process reads one sample more of those that were planned, wherever it is."""
        self._samples.advance()
        self._shards.advance()

    def take(self, reader: RemoteReader, sample: int) -> list[bytes] | None:
        """The sample's payloads when they were fetched, waiting for them when they are under way.

        Raises:
            StoreError: the store failed for too long, now or in the background.
        """
        if self._owner != os.getpid():
            return None  # neither threads nor locks have come along through the fork
        failure = self.failure
        if failure is not None:
            raise copy(failure) from failure  # each time another: one that was raised here would keep this object
        payloads = self._samples.take((self._numbers[id(reader)], sample))
        if payloads is None or _has_failed(payloads):
            return None  # what failed before it was asked for is asked for again
        error = payloads.exception()
        if error is None:
            return payloads.result()
        try:
            if isinstance(error, StoreError):
                raise error
        finally:
            del error, payloads
        return None

    def put(self, shard: RemoteShard) -> None:
        """Wish for a whole shard, of which much is read by ranges."""
        if self._owner == os.getpid():
            self._shards.wish(shard)

    def close(self) -> None:
        """Let the threads end; what they have promised and not done is read by those who ask for it."""
        self._samples.close()
        self._shards.close()


def _has_failed(payloads: Payloads) -> bool:
    return payloads.done() and payloads.exception() is not None


def _let_go(*backgrounds: Background) -> None:
    for background in backgrounds:
        background.let_go()
