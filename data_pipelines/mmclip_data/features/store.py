"""`FeatureStore`: features that evaluations share, on this machine's disk, of bounded size.

    FOLDER/<key>/     one `FeatureCache`
    FOLDER/locks/     who uses which of them

What was used longest ago goes first, and never what a running command uses.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmclip.errors import MachineError, UserError
from mmclip_data.cache_home import cache_home
from mmclip_data.features.cache import KEY, FeatureCache, FeatureKey

MAX_BYTES = 5 << 30
LOCKS = 256
"""Lock files: their number is fixed, because one that may be removed locks nothing. Two keys that share one just stay."""


def default_folder() -> Path:
    """`features` in the user's cache folder."""
    return cache_home() / "features"


class FeatureStore:
    """Caches by key. What cannot be kept is told once by `warn`, and everything goes on without."""

    def __init__(
        self, folder: Path | None = None, max_bytes: int = MAX_BYTES, warn: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder or default_folder()
        self.max_bytes = max_bytes
        self._warn = warn
        self._used: dict[int, int] = {}  # file descriptors by lock

    def open(self, key: FeatureKey) -> FeatureCache | None:
        """The cache of a key, in use from now on; None where it cannot be kept."""
        size = key.rows * key.embed_dim * 4
        if size > self.max_bytes:
            self.give_up(f"{size:,} bytes of features are more than the {self.max_bytes:,} that it may hold")
            return None
        try:
            self._use(key)
            self.trim(room_for=0 if (self.folder / key.digest).exists() else size)
            cache = FeatureCache(self.folder, key)
            os.utime(cache.folder / KEY)  # noted as its last use
        except (OSError, MachineError, UserError) as error:
            self.give_up(str(error))
            return None
        return cache

    def give_up(self, reason: str) -> None:
        """Say why features are not kept, once."""
        if self._warn is not None:
            self._warn(f"features are not kept in {self.folder}: {reason}")
            self._warn = None

    def trim(self, room_for: int = 0) -> list[str]:
        """Remove what was used longest ago until all fits; returns the keys that went."""
        entries = sorted(self._entries())
        total = sum(size for _, _, size in entries) + room_for
        removed: list[str] = []
        for _, folder, size in entries:
            if total <= self.max_bytes:
                break
            with self._unused(folder.name) as unused:
                if unused:
                    shutil.rmtree(folder, ignore_errors=True)
                    total -= size
                    removed.append(folder.name)
        return removed

    def bytes(self) -> int:
        """What all of it takes."""
        return sum(size for _, _, size in self._entries())

    def close(self) -> None:
        """What was opened is no longer in use."""
        for descriptor in self._used.values():
            os.close(descriptor)
        self._used.clear()

    def _entries(self) -> Iterator[tuple[float, Path, int]]:
        """Last use, folder and bytes on the disk of each key."""
        for path in self.folder.glob(f"*/{KEY}"):
            with suppress(FileNotFoundError):  # another process has just removed it
                sizes = [entry.stat().st_blocks * 512 for entry in path.parent.iterdir()]
                yield path.stat().st_mtime, path.parent, sum(sizes)

    def _use(self, key: FeatureKey) -> None:
        number = _lock_of(key.digest)
        if number not in self._used:
            self._used[number] = self._lock_file(number)
            fcntl.flock(self._used[number], fcntl.LOCK_SH)

    @contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        """Whether nobody uses a key, this store included, nor begins to within."""
        number = _lock_of(digest)
        if number in self._used:
            yield False
            return
        descriptor = self._lock_file(number)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)

    def _lock_file(self, number: int) -> int:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / f"{number:02x}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock_of(digest: str) -> int:
    return int(digest[:2], 16) % LOCKS
