"""Reads samples of an indexed shard on a store; the same contract as `shards.read.ShardReader`, from another place."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xxhash

from mmclip.errors import BadSampleError
from mmclip_data.shards.columns import Member, ShardIndex
from mmclip_data.shards.read import MAX_MEMBER_BYTES
from mmclip_data.stores.shard import RemoteShard


@runtime_checkable
class Ahead(Protocol):
    """Samples that were fetched before they are asked for."""

    def take(self, reader: "RemoteReader", sample: int) -> list[bytes] | None:
        """The payloads of the members that this run reads, or None where they are not here."""
        ...


class RemoteReader:
    """One shard; reads name their position, so threads and forked processes may share a reader."""

    def __init__(
        self,
        tar: RemoteShard,
        index: ShardIndex,
        extensions: Collection[str] | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self.tar = tar
        self.index = index
        self.extensions = None if extensions is None else frozenset(extensions)
        self.max_member_bytes = max_member_bytes
        self.ahead: Callable[[], Ahead | None] = _nothing
        """Finds the samples that were fetched ahead, for as long as somebody fetches."""
        tar.is_sound = partial(is_sound, index)

    def read(self, sample: int, extensions: Collection[str] | None = None) -> dict[str, bytes]:
        """The sample's members by extension: all, or those of `extensions` that it has.

        Bytes that are not those of the index are asked of the store itself once more: either the cache is damaged, and
        its file goes, or the object was changed, or the sample is bad.

        Raises:
            BadSampleError: a member is cut, too large, or its bytes differ from those that were indexed.
            StoreError: the store failed for too long, or the object was changed; the sample itself may be sound.
        """
        members = self.members(sample, extensions)
        payloads = self._fetched_ahead(sample, extensions)
        if payloads is None:
            payloads = self.fetch(members)
        if self._wrong(members, payloads):
            payloads = self.tar.read_from_store([member[:2] for member in members.values()])
            wrong = self._wrong(members, payloads)
            if wrong:
                self.tar.refuse_change()
                raise BadSampleError(f"shard {self.tar}, key {self.index.key(sample)!r}, {wrong}")
            self.tar.drop()
        return dict(zip(members, payloads, strict=True))

    def read_into(self, found: dict[str, Any], sample: int, extensions: Collection[str] | None = None) -> str:
        """`read` into a dictionary that is there already; returns the key."""
        found.update(self.read(sample, extensions))
        return self.index.key(sample)

    def members(self, sample: int, extensions: Collection[str] | None) -> dict[str, Member]:
        """Where the wanted members lie.

        Raises:
            BadSampleError: one is larger than a member may be.
        """
        chosen = {place[0]: Member(*place[1:]) for place in self.index.entry(sample, extensions)[1]}
        for name, member in chosen.items():
            if member.size > self.max_member_bytes:
                raise BadSampleError(
                    f"shard {self.tar}, key {self.index.key(sample)!r}, member {name!r}: expected at most "
                    f"{self.max_member_bytes} bytes, got {member.size} bytes"
                )
        return chosen

    def fetch(self, members: dict[str, Member]) -> list[bytes]:
        """The payloads, not yet compared with their checksums."""
        return self.tar.read([member[:2] for member in members.values()])

    def _fetched_ahead(self, sample: int, extensions: Collection[str] | None) -> list[bytes] | None:
        ahead = self.ahead()
        if ahead is None or extensions is None or frozenset(extensions) != self.extensions:
            return None
        return ahead.take(self, sample)

    def _wrong(self, members: dict[str, Member], payloads: list[bytes]) -> str | None:
        for (name, member), payload in zip(members.items(), payloads, strict=True):
            if len(payload) != member.size:
                return f"member {name!r}: expected {member.size} bytes, got {len(payload)} bytes"
            checksum = xxhash.xxh3_64_intdigest(payload)
            if checksum != member.checksum:
                return f"member {name!r}: expected checksum {member.checksum:016x}, got {checksum:016x}"
        return None

    def close(self) -> None:
        """Nothing is kept open."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ahead": _nothing}


def _nothing() -> None:
    return None


def is_sound(index: ShardIndex, path: Path) -> bool:
    """Whether every member in the file at `path` has the checksum that the index holds."""
    offset, size, checksum = (index.columns[name] for name in ("member_offset", "member_size", "member_xxh3"))
    order = np.argsort(offset, kind="stable")
    with path.open("rb") as handle:
        for start, length, expected in zip(
            offset[order].tolist(), size[order].tolist(), checksum[order].tolist(), strict=True
        ):
            handle.seek(start)
            if xxhash.xxh3_64_intdigest(handle.read(length)) != expected:
                return False
    return True
