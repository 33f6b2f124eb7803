"""Objects on a store, through fsspec: their facts, their bytes, their neighbours; every fault is typed and retried.

fsspec's file systems do not survive a fork, so each process makes its own, and leaves alone those of its parent: closing
a connection that both have open would end it for the other. Their own retries and listings are switched
off: one budget counts, and what was listed a minute ago may be gone.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from mmclip.errors import UserError
from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.faults import NotFoundError, ShortBodyError, classify
from mmclip_data.stores.retry import Retry
from mmclip_data.stores.urls import StoreUrl
from mmclip_data.stores.waits import Interrupted, Work, result_of

T = TypeVar("T")
Sink = Callable[[bytes], object]

BLOCK_BYTES = 8 << 20
"""Of one request in a long read; what is lost when it is cut."""
SLOWEST_BYTES_PER_SECOND = 64 << 10
"""A request may take as long as this rate allows, on top of the idle time."""
ETAGS = ("ETag", "etag", "md5Hash", "blob_id", "xet_hash")
TIMES = ("Last-Modified", "LastModified", "mtime", "updated", "created")
"""Where there is no ETag. Listings tell other times than the objects themselves do."""


@dataclass(frozen=True)
class Facts:
    """What a store says of an object without sending it."""

    size: int
    etag: str
    """Changes when the object does; empty where the store tells nothing of the kind."""
    ranges: bool = True
    """Whether a part can be asked for."""


class SinkError(Exception):
    """What the receiver of the bytes raised, a full disk perhaps: no fault of the store."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


@dataclass
class _Made:
    """The file system of one process, from its first request on; a lock held at a fork is nobody's in the new process."""

    system: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Store:
    """One kind of store. Objects of this class may be sent to other processes."""

    def __init__(self, protocol: str, config: CacheConfig) -> None:
        self.protocol = protocol
        self.config = config
        self.retry = Retry(config.retry_seconds)
        self.contacted = False
        self._made: dict[int, _Made] = {}
        """By process."""

    def facts(self, url: StoreUrl) -> Facts:
        """Size and ETag.

        Raises:
            NotFoundError: there is no such object, or it is a folder.
            StoreError: the store failed for too long.
        """
        return self._retried(url, lambda: self._facts(url))

    def copy(self, url: StoreUrl, facts: Facts, start: int, end: int, sink: Sink) -> None:
        """Hand the bytes [start, end) to `sink` in order, piece by piece; a cut answer is taken up where it ended.

        Raises:
            StoreError: the store failed for too long.
            OSError: `sink` did.
        """
        done = start

        def deliver(piece: bytes) -> None:
            nonlocal done
            try:
                sink(piece)
            except OSError as error:
                raise SinkError(error) from error
            done += len(piece)

        def attempt() -> None:
            self._copy(url, facts, done, end, deliver)
            if done < end:
                raise ShortBodyError(f"{url}: the answer ended at byte {done}, expected {end}")

        try:
            self._retried(url, attempt, lambda: done)
        except SinkError as error:
            raise error.cause from None

    def read(self, url: StoreUrl, facts: Facts, start: int, end: int) -> bytes:
        """The bytes [start, end)."""
        pieces: list[bytes] = []
        self.copy(url, facts, start, end, pieces.append)
        return b"".join(pieces)

    def listing(self, folder: StoreUrl) -> dict[StoreUrl, Facts | None]:
        """The objects directly in a folder, with their facts where the store tells size and ETag along the way."""
        entries: Sequence[Mapping[str, Any]] = self._retried(
            folder, lambda: self._call("ls", self._path(folder), detail=True)
        )
        found = {}
        for entry in entries:
            if entry["type"] == "file":
                known = entry.get("size") is not None and any(entry.get(name) for name in ETAGS)
                found[self._url(entry["name"])] = _facts_of(entry) if known else None
        return found

    def write(self, url: StoreUrl, content: bytes) -> None:
        """Put a small object there, in one piece.

        Raises:
            StoreError: it cannot be written.
        """
        self._retried(url, lambda: self._call("pipe_file", self._path(url), content))

    def refresh(self, refused: object) -> None:
        """Forget connections and credentials, those of `refused`; the next request looks for them again."""
        made = self._of_process()
        with made.lock:
            if made.system is refused:  # else another thread was refused too, and has done so
                made.system = None

    def _facts(self, url: StoreUrl) -> Facts:
        info = self._call("info", self._path(url))
        if info["type"] != "file" or info.get("size") is None:
            raise NotFoundError(f"{url}: no object but a folder")
        return _facts_of(info)

    def _copy(self, url: StoreUrl, facts: Facts, start: int, end: int, deliver: Sink) -> None:
        path = self._path(url)
        for place in range(start, end, BLOCK_BYTES):
            stop = min(place + BLOCK_BYTES, end)
            piece = self._call("cat_file", path, start=place, end=stop, expected=stop - place)
            if len(piece) > stop - place:
                raise ShortBodyError(f"{url}: {len(piece)} bytes came, {stop - place} were asked for")
            deliver(piece)
            if len(piece) < stop - place:
                return

    def _retried(self, url: StoreUrl, attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        used: object = None

        def typed() -> T:
            nonlocal used
            used = self._of_process().system
            try:
                result = attempt()
            except (SinkError, UserError, Interrupted):
                raise
            except Exception as error:
                fault = classify(error, url)
                if fault is None:
                    raise
                # Libraries keep an error in the frame that raised it; with its traceback it would keep whoever reads
                # here, and the threads that end with him, until the garbage collector comes by. So would ours.
                error.__traceback__ = None
            else:
                self.contacted = True
                return result
            try:
                raise fault
            finally:
                del fault

        return self.retry.run(typed, lambda: self.refresh(used), progress, lambda: self.contacted)

    def _call(self, name: str, *arguments: Any, expected: int = 0, **options: Any) -> Any:
        system = self._system()
        if not isinstance(system, AsyncFileSystem):
            return getattr(system, name)(*arguments, **options)
        return self._await(partial(getattr(system, f"_{name}"), *arguments, **options), expected)

    def _await(self, work: Work[T], expected: int = 0) -> T:
        """The result of `work` on fsspec's loop, cancelled when it takes longer than `expected` bytes can."""
        seconds = self.config.idle_seconds + expected / SLOWEST_BYTES_PER_SECOND
        return result_of(work, seconds)

    def _system(self) -> Any:
        made = self._of_process()
        with made.lock:
            if made.system is None:
                system = self._make()
                if hasattr(system, "set_session"):  # once, before several threads ask for it
                    self._await(system.set_session)
                made.system = system
            return made.system

    def _of_process(self) -> _Made:
        return self._made.get(os.getpid()) or self._made.setdefault(os.getpid(), _Made())

    def _make(self) -> Any:
        """A file system of this process.

        Raises:
            UserError: its package is not installed.
        """
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        idle, protocol = self.config.idle_seconds, self.protocol
        if protocol in ("s3", "s3a"):
            timeouts = {"read_timeout": idle, "connect_timeout": idle, "max_pool_connections": 2 * self.config.parallel}
            options |= {
                "anon": self.config.anonymous,
                "config_kwargs": timeouts | {"retries": {"total_max_attempts": 1}},
            }
        elif protocol in ("gs", "gcs") and self.config.anonymous:
            options["token"] = "anon"
        elif protocol == "hf" and self.config.anonymous:
            options["token"] = False
        try:
            system = fsspec.filesystem(protocol, **options)
        except ImportError as error:
            raise UserError(
                f"{protocol}:// needs a package that is not installed ({error.name or type(error).__name__}): "
                "pip install 'mmclip[stores]'"
            ) from error
        if isinstance(getattr(system, "retries", None), int):
            system.retries = 1
        return system

    def _path(self, url: StoreUrl) -> str:
        return url.full.partition("://")[2] if self.protocol == "memory" else url.full

    def _url(self, name: str) -> StoreUrl:
        return StoreUrl(name if "://" in name else f"{self.protocol}://{name.lstrip('/')}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": {}}


def _facts_of(info: Mapping[str, Any]) -> Facts:
    etag = next((str(info[name]) for name in ETAGS + TIMES if info.get(name)), "")
    return Facts(int(info["size"]), etag.strip('"'))
