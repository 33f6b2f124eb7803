"""The samples that the plan will read next, fetched by range into memory before they are asked for."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from mmclip.errors import BadSampleError
from mmclip_data.shards.columns import Member
from mmclip_data.stores.background import Background
from mmclip_data.stores.reader import RemoteReader
from mmclip_data.stores.waits import LOOK_SECONDS

MAX_SAMPLES_AHEAD = 1024
LATE_READS = 1024
"""A sample that so many later ones have overtaken is let go: nobody comes for it any more."""


class PlannedRead(NamedTuple):
    """One read that the plan has in mind."""

    shard: int
    row: int


Payloads = Future[list[bytes]]
Work = tuple[RemoteReader, dict[str, Member], Payloads]


class _Sample(NamedTuple):
    number: int
    """Of the reads of this process."""
    size: int
    payloads: Payloads | None
    """None where the shard is in the cache."""


class SamplesAhead(Background):
    """At most `max_bytes` of them; `places` come in the order of reading."""

    def __init__(self, readers: Sequence[RemoteReader | None], places: Iterator[PlannedRead], max_bytes: int) -> None:
        super().__init__()
        self.readers = readers
        self.max_bytes = max_bytes
        self._places = enumerate(places)
        self._samples: dict[tuple[int, int], _Sample] = {}
        self._bytes = 0
        self._too_early: dict[tuple[int, int], int] = {}
        """What was asked for before the plan was followed so far, and at which read."""
        self._is_over = False

    def take(self, place: tuple[int, int]) -> Payloads | None:
        """The payloads, here or under way; None where the sample was not fetched."""
        with self.state:
            found = self._samples.pop(place, None)
            if found is not None:
                self._bytes -= found.size
                self.state.notify_all()
                return found.payloads
            if self.threads and not self._is_over and not self.closed:
                self._too_early[place] = self.reads
            while self._too_early and next(iter(self._too_early.values())) + LATE_READS < self.reads:
                self._too_early.pop(next(iter(self._too_early)))
        return None

    def step(self) -> bool:
        with self.turn:
            work = self._next()
        if work is None:
            return False
        _fulfil(*work)
        return True

    def _next(self) -> Work | None:
        for number, place in self._places:
            work = self._plan(number, place)
            if work is not None or self.closed:
                return work
        with self.state:
            self._is_over = True
            self._too_early.clear()
        return None

    def _plan(self, number: int, place: PlannedRead) -> Work | None:
        """What there is to fetch for a sample, if anything, as soon as there is room for it."""
        reader = self.readers[place.shard]
        if reader is None or reader.tar.stores.config.mode == "download":
            return None
        try:
            members = reader.members(place.row, reader.extensions)
        except BadSampleError:  # whoever reads it will be told
            return None
        is_local = reader.tar.is_local
        size = 0 if is_local else sum(member.size for member in members.values())
        if size > self.max_bytes:
            return None
        promise: Payloads | None = None if is_local else Future()
        with self.state:
            while not self.closed and self._is_full(size):
                self.state.wait(LOOK_SECONDS)
            is_known = self._too_early.pop(place, None) is not None or place in self._samples
            if self.closed or is_known or number < self.reads:
                return None
            self._samples[place] = _Sample(number, size, promise)
            self._bytes += size
        return None if promise is None else (reader, members, promise)

    def _is_full(self, size: int) -> bool:
        while self._samples:
            first = next(iter(self._samples))
            if self._samples[first].number + LATE_READS >= self.reads:
                break
            self._bytes -= self._samples.pop(first).size
        return self._bytes + size > self.max_bytes or len(self._samples) >= MAX_SAMPLES_AHEAD


def _fulfil(reader: RemoteReader, members: dict[str, Member], promise: Payloads) -> None:
    try:
        promise.set_result(reader.fetch(members))
    except BaseException as error:  # it belongs to the one who asks for the sample
        promise.set_exception(error.with_traceback(None))  # which knows the frame that knows the promise
