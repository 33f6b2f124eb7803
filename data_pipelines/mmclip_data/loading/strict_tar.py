"""A tar that is read from its first byte to its last, once, and may not end before it ends.

Readers of tars take a damaged header, or a tar that was cut between two members, for its end, and half of a shard is gone
without a word. Here every byte on its way to the reader is followed, header by header.
"""

import bz2
import gzip
import io
import lzma
from typing import BinaryIO, Protocol, cast, runtime_checkable

from mmclip.errors import UserError
from mmclip_data.shards.headers import BLOCK, EXTENDED, MAX_EXTENDED_BYTES, HeaderReader, TarDamage, parse_header
from mmclip_data.shards.read import MAX_MEMBER_BYTES
from mmclip_data.shards.walk import NOT_TARS

CHUNK_BYTES = 1 << 16
UNPACKERS = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@runtime_checkable
class Readable(Protocol):
    """Bytes, one after another."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` more bytes; none at the end."""
        ...

    def close(self) -> object: ...


def unpacked(stream: Readable, name: str) -> Readable:
    """The tar inside a stream, by the ending of its name: what merely looks compressed is not unpacked.

    Raises:
        UserError: a compression that is not read.
    """
    ending = next((ending for ending in (*UNPACKERS, ".zst") if name.lower().endswith(ending)), None)
    if ending == ".zst":
        raise UserError(f"shard {name}: zstd is not read here: unpack it (`zstd -d`), or give its name without `.zst`")
    return cast(Readable, UNPACKERS[ending](cast(BinaryIO, stream), "rb")) if ending else stream


class StrictTar:
    """The stream up to its first damage, which is the end of it for the reader; `finish` then tells.

    Members before the damage are handed out whole.
    """

    def __init__(self, stream: Readable, max_member_bytes: int = MAX_MEMBER_BYTES) -> None:
        self.stream = stream
        self.max_member_bytes = max_member_bytes
        self.members = 0
        self.bytes_read = 0
        self._headers = HeaderReader(io.BytesIO(), 0)
        self._group = bytearray()
        """Header blocks of the member that comes next."""
        self._group_start = self._next = 0
        self._wanted = BLOCK
        self._zeros = 0
        """Blocks of zeros at the end so far."""
        self._damage: TarDamage | None = None

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes of what is sound."""
        if self._damage is not None:
            return b""
        start, piece = self.bytes_read, self.stream.read(size if size >= 0 else CHUNK_BYTES)
        try:
            self._follow(piece)
        except TarDamage as damage:
            self._damage = damage
            return piece[: max(0, damage.start - start)]
        return piece

    def finish(self) -> None:
        """Read what the reader has left, and check that it was the end.

        Raises:
            TarDamage: it was not; at which byte, and why.
        """
        while self.read(CHUNK_BYTES):
            pass
        if self._damage is not None:
            raise self._damage
        if not self.bytes_read:
            raise TarDamage(0, "0 bytes, expected a tar")
        if self.bytes_read < self._next or self._group:
            raise TarDamage(self._group_start, f"cut short at byte {self.bytes_read}")
        if not self._zeros:
            raise TarDamage(
                self.bytes_read, f"ends at byte {self.bytes_read} without end-of-archive blocks: cut between members"
            )

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()

    def _follow(self, piece: bytes) -> None:
        start, self.bytes_read = self.bytes_read, self.bytes_read + len(piece)
        place = 0
        while place < len(piece):
            here = start + place
            if here < self._next:  # inside a payload
                place = min(len(piece), self._next - start)
                continue
            taken = piece[place : place + self._wanted - len(self._group)]
            if not self._group:
                self._group_start = here
            self._group += taken
            place += len(taken)
            if len(self._group) == self._wanted:
                self._header(start + place)

    def _header(self, end: int) -> None:
        """The header blocks are complete as far as they are known: ask for more, or go on behind the payload."""
        block = bytes(self._group[-BLOCK:])
        if len(self._group) == BLOCK and not any(block):
            self._zeros += 1
            return self._go_on(end)
        if self._zeros:
            raise TarDamage(self._group_start, f"data behind the end of the archive at byte {self._group_start}")
        try:
            header = parse_header(block)
        except ValueError as error:
            raise TarDamage(self._group_start, self._what_it_is(error)) from error
        if header.kind in EXTENDED:
            if header.size > MAX_EXTENDED_BYTES:
                raise TarDamage(self._group_start, f"a header of {header.size} bytes at byte {self._group_start}")
            self._wanted = len(self._group) + header.size + -header.size % BLOCK + BLOCK
            return None
        self._headers.handle, self._headers.size = io.BytesIO(bytes(self._group)), len(self._group)
        entry = self._headers.entry(0)
        if entry is None:
            raise TarDamage(self._group_start, f"zeros behind the extended header at byte {self._group_start}")
        if entry.size > self.max_member_bytes:
            raise TarDamage(
                self._group_start,
                f"member {entry.name!r} claims {entry.size} bytes, at most {self.max_member_bytes} are read",
            )
        self.members += 1
        return self._go_on(self._group_start + entry.end)

    def _go_on(self, where: int) -> None:
        self._next, self._wanted = where, BLOCK
        self._group.clear()

    def _what_it_is(self, error: ValueError) -> str:
        start = bytes(self._group[:BLOCK]).lstrip()
        what = next((what for magic, what in NOT_TARS.items() if start.startswith(magic)), None)
        if self._group_start == 0 and what:
            return f"not a tar but {what}"
        return f"unreadable header at byte {self._group_start} ({error})"
