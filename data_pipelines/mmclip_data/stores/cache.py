"""Whole shards on this machine's disk, shared by its processes: a file stands complete under its name, or not at all.

A name holds a hash of the URL, the ETag and the size, so two shards never meet and a changed one gets another name. A file
is opened for each read and never kept open, so what is removed gives its room back at once. Nothing is synced to the disk:
what a power cut leaves behind is found by the checksums of its members, as any other damage is.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mmclip_data.stores.waits import pause

LOCKS = 256
"""Lock files: their number is fixed, because one that may be removed locks nothing. Two shards that share one just wait."""
WHOLE, PART = ".tar", ".part"
TOUCH_SECONDS = 30.0
"""A shard's last use is noted no more often than this."""
POLL_SECONDS = 0.02

Span = tuple[int, int]
"""First byte and number of bytes."""
Download = Callable[[BinaryIO], None]
"""Appends what is missing to a file that may hold the beginning."""


class ShardCache:
    """Files by key, least recently read out first, never more than `max_bytes` of them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._touched: dict[str, float] = {}

    def read(self, key: str, size: int, spans: Sequence[Span]) -> list[bytes] | None:
        """The bytes of each span, or None when the shard is not there."""
        try:
            descriptor = os.open(self._path(key, size), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(descriptor).st_size != size:
                return None
            self._touch(key, descriptor)
            return [os.pread(descriptor, length, start) for start, length in spans]
        finally:
            os.close(descriptor)

    def holds(self, key: str, size: int) -> bool:
        """Whether the shard is there, by its size; its bytes are vouched for where they are read."""
        try:
            return self._path(key, size).stat().st_size == size
        except FileNotFoundError:
            return False

    def local_path(self, key: str, size: int) -> Path:
        """Where the shard stands once it is there; it may go at any time."""
        return self._path(key, size)

    def fetch(
        self, key: str, size: int, download: Download, is_sound: Callable[[Path], bool], wait: bool = True
    ) -> bool:
        """Have the shard there, and say whether it is; False where it is too large, or `wait` is not wanted.

        What another process has begun and left is taken up where it ends. A download that is not sound is made once
        more; then it is what the store has, and its bad members will be found one by one.

        Raises:
            OSError: the disk is full, or the store failed.
        """
        if size > self.max_bytes:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(key, wait) as locked:
            if not locked:
                return False
            if self.holds(key, size):
                return True
            part = self._path(key, size).with_suffix(PART)
            while not self._reserve(key, part, size):
                if not wait:
                    return False
                pause(POLL_SECONDS)  # others fill all of the room: each of them ends
            try:
                self._fill(part, size, download, is_sound)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                part.unlink(missing_ok=True)
                raise OSError(error.errno, error.strerror, str(part)) from error  # a write does not name its file
            os.replace(part, self._path(key, size))
            return True

    def drop(self, key: str, size: int) -> None:
        """Remove a shard whose bytes proved wrong."""
        self._path(key, size).unlink(missing_ok=True)

    def small_file(self, key: str, content: Callable[[], bytes]) -> Path:
        """A file that is kept whatever the room, such as an index; its content is asked for once."""
        path = self.small_path(key)
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(key, wait=True):
            if not path.is_file():
                temporary = path.with_suffix(PART)
                temporary.write_bytes(content())
                os.replace(temporary, path)
        return path

    def small_path(self, key: str) -> Path:
        """Where `small_file` keeps it."""
        return self.folder / "indexes" / f"{key}.mmidx"

    @contextmanager
    def slot(self, number: int) -> Iterator[bool]:
        """One of `number` places for downloads in the background, of all processes together; False when all are taken."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(number):
            with _locked(folder / f"slot-{place}", wait=False) as locked:
                if locked:
                    yield True
                    return
        yield False

    def _fill(self, part: Path, size: int, download: Download, is_sound: Callable[[Path], bool]) -> None:
        for again in (True, False):
            with part.open("ab") as handle:
                if handle.tell() > size:
                    handle.truncate(0)
                download(handle)
            assert part.stat().st_size == size, "a download hands over every byte or raises"
            if not again or is_sound(part):
                return
            os.truncate(part, 0)

    def _reserve(self, key: str, part: Path, size: int) -> bool:
        """Make room for a file and put it there, empty; its name says how much room it will take."""
        with self._lock("room", wait=True):
            entries = [(path, facts) for path, facts in _files(self.folder) if path != part]
            taken = sum(_promised(path) for path, _ in entries)
            for path, _ in sorted(entries, key=lambda entry: entry[1].st_mtime_ns):
                if taken + size <= self.max_bytes:
                    break
                if path.suffix == WHOLE or self._is_abandoned(path, key):
                    path.unlink(missing_ok=True)
                    taken -= _promised(path)
            if taken + size > self.max_bytes:
                return False
            part.touch()
            return True

    def _is_abandoned(self, part: Path, held: str) -> bool:
        """Whether nobody is downloading it any more: a process that was killed holds no lock. The lock of `held` is ours."""
        key = part.name.partition("-")[0]
        if _lock_name(key) == _lock_name(held):
            return True
        with self._lock(key, wait=False) as locked:
            return locked

    def _touch(self, key: str, descriptor: int) -> None:
        now = time.monotonic()
        if now - self._touched.get(key, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._touched[key] = now
            with suppress(PermissionError):  # another user's cache may be read
                os.utime(descriptor)

    def _path(self, key: str, size: int) -> Path:
        return self.folder / f"{key}-{size}{WHOLE}"

    @contextmanager
    def _lock(self, key: str, wait: bool) -> Iterator[bool]:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / _lock_name(key), wait) as locked:
            yield locked


def _lock_name(key: str) -> str:
    return "room" if key == "room" else f"{int(key[:8], 16) % LOCKS:02x}"


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """A lock between processes and threads; the system lets it go with the process that holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while not _take(descriptor):
            if not wait:
                yield False
                return
            pause(POLL_SECONDS)  # no call of the system that nothing but a signal would end
        try:
            yield True
        finally:  # not by closing alone: a process that was forked meanwhile has the descriptor too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for entry in os.scandir(folder):
        if entry.name.endswith((WHOLE, PART)):
            with suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat()


def _promised(path: Path) -> int:
    """The size that a file has or will have: the number behind the hash in its name."""
    size = path.stem.rpartition("-")[2]
    return int(size) if size.isdigit() else 0
