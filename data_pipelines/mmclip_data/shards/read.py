"""Reads samples of an indexed shard in any order, and vouches for every byte."""

import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from mmclip.errors import BadSampleError
from mmclip_data.shards.index import Member, ShardIndex

MAX_MEMBER_BYTES = 64 << 20


class ShardReader:
    """One open tar; the descriptor is opened at the first read, so an unused reader may be sent to a worker process.

    Reads name their position (`pread`), so threads and forked processes may share a reader.
    """

    def __init__(self, tar: Path, index: ShardIndex, max_member_bytes: int = MAX_MEMBER_BYTES) -> None:
        self.tar = tar
        self.index = index
        self.max_member_bytes = max_member_bytes
        self._descriptor: int | None = None

    def read(self, sample: int, extensions: Collection[str] | None = None) -> dict[str, bytes]:
        """The sample's members by extension: all, or those of `extensions` that it has.

        Raises:
            BadSampleError: a member is cut, too large, or its bytes differ from those that were indexed.
            OSError: the store failed; the sample itself may be sound.
        """
        return {
            extension: self._read_member(sample, extension, member)
            for extension, member in self.index.members(sample).items()
            if extensions is None or extension in extensions
        }

    def _read_member(self, sample: int, extension: str, member: Member) -> bytes:
        if member.size > self.max_member_bytes:
            raise self._bad(sample, extension, f"at most {self.max_member_bytes} bytes", f"{member.size} bytes")
        if self._descriptor is None:
            self._descriptor = os.open(self.tar, os.O_RDONLY | os.O_CLOEXEC)
        payload = os.pread(self._descriptor, member.size, member.offset)
        if len(payload) != member.size:
            raise self._bad(sample, extension, f"{member.size} bytes", f"{len(payload)} bytes")
        checksum = xxhash.xxh3_64_intdigest(payload)
        if checksum != member.checksum:
            raise self._bad(sample, extension, f"checksum {member.checksum:016x}", f"{checksum:016x}")
        return payload

    def _bad(self, sample: int, extension: str, expected: str, got: str) -> BadSampleError:
        return BadSampleError(
            f"shard {self.tar}, key {self.index.key(sample)!r}, member {extension!r}: expected {expected}, got {got}"
        )

    def close(self) -> None:
        """Close the descriptor; a later read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}
