"""Reads samples of an indexed shard in any order, and vouches for every byte."""

import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from xxhash import xxh3_64_intdigest

from mmclip.errors import BadSampleError
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.open_files import OpenFiles

MAX_MEMBER_BYTES = 64 << 20
OPENED = OpenFiles()


class _Descriptor:
    """An open file that closes when its last user has let go of it, in whatever thread."""

    def __init__(self, tar: Path) -> None:
        self.number = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        number = getattr(self, "number", None)
        if number is not None:
            os.close(number)


class ShardReader:
    """One tar, opened at the first read, so an unused reader may be sent to a worker process.

    Reads name their position (`pread`), so threads and forked processes may share a reader. However many readers a
    process has, only the last few that opened their tar keep it open; the others open it again when they are asked.
    """

    def __init__(self, tar: Path, index: ShardIndex, max_member_bytes: int = MAX_MEMBER_BYTES) -> None:
        self.tar = tar
        self.index = index
        self.max_member_bytes = max_member_bytes
        self._descriptor: _Descriptor | None = None

    def read(self, sample: int, extensions: Collection[str] | None = None) -> dict[str, bytes]:
        """The sample's members by extension: all, or those of `extensions` that it has.

        Raises:
            BadSampleError: a member is cut, too large, or its bytes differ from those that were indexed.
            OSError: the store failed; the sample itself may be sound.
        """
        found: dict[str, bytes] = {}
        self.read_into(found, sample, extensions)
        return found

    def read_into(self, found: dict[str, Any], sample: int, extensions: Collection[str] | None = None) -> str:
        """`read` into a dictionary that is there already, which a loader fills in several places; returns the key.

        Raises:
            BadSampleError, OSError: as `read` does.
        """
        key, places = self.index.entry(sample, extensions)
        descriptor = self._descriptor or self._open()
        for extension, offset, size, expected in places:
            if size > self.max_member_bytes:
                raise self._bad(sample, extension, f"at most {self.max_member_bytes} bytes", f"{size} bytes")
            try:
                payload = os.pread(descriptor.number, size, offset)
            except OSError as error:  # pread does not know which file it reads
                raise OSError(error.errno, error.strerror, str(self.tar)) from error
            if len(payload) != size:
                raise self._bad(sample, extension, f"{size} bytes", f"{len(payload)} bytes")
            checksum = xxh3_64_intdigest(payload)
            if checksum != expected:
                raise self._bad(sample, extension, f"checksum {expected:016x}", f"{checksum:016x}")
            found[extension] = payload
        return key

    def _bad(self, sample: int, extension: str, expected: str, got: str) -> BadSampleError:
        return BadSampleError(
            f"shard {self.tar}, key {self.index.key(sample)!r}, member {extension!r}: expected {expected}, got {got}"
        )

    def _open(self) -> _Descriptor:
        self._descriptor = descriptor = _Descriptor(self.tar)
        OPENED.opened(self)
        return descriptor

    def release(self) -> None:
        """Let the tar be closed; a later read opens it again."""
        self._descriptor = None

    close = release

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}
