"""A shard on a store: read from the cache where it is there, by ranges where it is not."""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from mmclip.errors import UserError
from mmclip_data.stores.cache import ShardCache, Span
from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.faults import ChangedError
from mmclip_data.stores.filesystems import Facts, Store
from mmclip_data.stores.opening import open_store
from mmclip_data.stores.urls import StoreUrl

JOINED_GAP_BYTES = 64 << 10
"""Bytes between two members that are fetched along with them: a request costs as much as so many."""
WORTH_A_DOWNLOAD = 4
"""One part in so many of a shard, read or to be read by ranges, makes the whole of it worth fetching."""


@runtime_checkable
class Requests(Protocol):
    """Takes wishes for whole shards, to be fetched in the background."""

    def put(self, shard: "RemoteShard", /) -> None: ...


class Stores:
    """The stores and the cache of one source; in each process it finds its own connections."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.cache = ShardCache(config.path, config.max_bytes)
        self._stores: dict[str, Store] = {}

    def of(self, url: StoreUrl) -> Store:
        """The store that holds `url`.

        Raises:
            UserError: its package is not installed.
        """
        if url.protocol not in self._stores:
            self._stores.setdefault(url.protocol, open_store(url.protocol, self.config))
        return self._stores[url.protocol]


@dataclass(eq=False, repr=False)
class RemoteShard:
    """A tar at a URL, as it was when the run began. Its text is the URL without what may be secret."""

    url: StoreUrl
    facts: Facts
    stores: Stores
    is_sound: Callable[[Path], bool] | None = None
    """Compares a downloaded file with the index, once there is one."""
    requests: Callable[[], Requests | None] = field(default_factory=lambda: _nobody)
    """Where to ask for the whole shard, for as long as somebody serves there."""
    read_by_ranges: int = 0
    """Bytes that the store was asked for, those between members among them."""

    def __str__(self) -> str:
        return str(self.url)

    def __repr__(self) -> str:
        return f"RemoteShard({str(self)!r}, {self.size} bytes)"

    @property
    def name(self) -> str:
        return self.url.name

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def key(self) -> str:
        """Its name in the cache."""
        return self.url.key(self.facts.etag, self.facts.size)

    @property
    def store(self) -> Store:
        return self.stores.of(self.url)

    @property
    def is_local(self) -> bool:
        """Whether it stands in the cache."""
        return self.stores.cache.holds(self.key, self.size)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each span, from wherever they come fastest.

        Raises:
            StoreError: the store failed for too long.
        """
        found = self.stores.cache.read(self.key, self.size, spans)
        if found is None and self._is_read_whole and self.fetch():
            found = self.stores.cache.read(self.key, self.size, spans)
        if found is not None:
            return found
        content = self.read_from_store(spans)
        if self.stores.config.mode == "auto" and self.read_by_ranges * WORTH_A_DOWNLOAD > self.size:
            requests = self.requests()
            if requests is not None:
                requests.put(self)
        return content

    def read_from_store(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes as the store has them now, whatever the cache says; neighbours come in one request."""
        if not spans:
            return []
        low, high = min(start for start, _ in spans), max(start + length for start, length in spans)
        if high - low > sum(length for _, length in spans) + JOINED_GAP_BYTES * len(spans):
            return [self._range(start, start + length) for start, length in spans]
        content = self._range(low, high)
        return [content[start - low : start - low + length] for start, length in spans]

    def fetch(self, wait: bool = True) -> bool:
        """Have the whole shard in the cache; False where it does not fit, or `wait` is not wanted and others are at it."""
        return self.stores.cache.fetch(self.key, self.size, self._download, self.is_sound or _any, wait)

    def drop(self) -> None:
        """Remove a cached file that proved wrong."""
        self.stores.cache.drop(self.key, self.size)

    def refuse_change(self) -> None:
        """Ask whether the object is still the one that the run began with.

        Raises:
            ChangedError: it is not.
        """
        now = self.store.facts(self.url)
        if (now.size, now.etag) != (self.facts.size, self.facts.etag):
            raise ChangedError(
                f"{self.url}: it was changed during the run (now {now.size} bytes, before {self.facts.size}; its ETag "
                f"{'is the same' if now.etag == self.facts.etag else 'differs'}): its samples may be others; index it again"
            )

    def open_whole(self) -> io.BufferedReader:
        """The downloaded file, open: it can be read to its end even if the cache lets it go meanwhile.

        Raises:
            UserError: it does not fit the cache.
        """
        while self.fetch():
            try:
                return self.stores.cache.local_path(self.key, self.size).open("rb")
            except FileNotFoundError:
                continue  # gone for the room of another already
        raise UserError(
            f"shard {self}: {self.size} bytes do not fit data.source.cache.max_bytes={self.stores.cache.max_bytes}: raise it"
        )

    @property
    def _is_read_whole(self) -> bool:
        """In `auto`, a server without ranges would send the beginning again and again."""
        mode = self.stores.config.mode
        return mode == "download" or (mode == "auto" and not self.facts.ranges)

    def _range(self, start: int, end: int) -> bytes:
        """Fewer bytes where the object ends before."""
        end = min(end, self.size)
        self.read_by_ranges += max(0, end - start)
        return self.store.read(self.url, self.facts, start, end) if start < end else b""

    def _download(self, handle: BinaryIO) -> None:
        if handle.tell() and not self.facts.etag:
            handle.truncate(0)  # nothing says that the beginning is of the same object
            handle.seek(0)
        self.store.copy(self.url, self.facts, os.fstat(handle.fileno()).st_size, self.size, handle.write)
        self.refuse_change()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"requests": _nobody}


def _nobody() -> None:
    return None


def _any(path: Path) -> bool:
    return True
