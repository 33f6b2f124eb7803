"""Tar headers read 512 bytes at a time: ustar, GNU long names, pax records, base-256 sizes.

What the standard library's `tarfile` reads is read alike, in about a fifth of the time. What it passes over in silence
(a damaged header is the end of the archive to it) is a `TarDamage` here.
"""

import re
import tarfile
from io import BufferedIOBase
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_EXTENDED_BYTES = 1 << 20
REGULAR = frozenset({b"0", b"\0", b"7"})
EXTENDED = frozenset({b"L", b"K", b"x", b"X", b"g"})
WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # links, devices, folders: the size field says nothing
GNU_KINDS = frozenset({b"L", b"K", b"S"})  # their prefix field holds other things than a prefix
FOLDER = b"5"
SPARSE = b"S"
PAX_LENGTH = re.compile(rb"(\d{1,20}) ")


class Entry(NamedTuple):
    """One member: its first header, its payload, and where the next header should stand, in bytes of the tar."""

    name: str
    kind: bytes
    start: int
    data: int
    size: int
    end: int


class TarDamage(ValueError):
    """What is wrong with the member at byte `start`; `entry` is that member where its header could be read."""

    def __init__(self, start: int, problem: str, entry: Entry | None = None) -> None:
        super().__init__(problem)
        self.start = start
        self.entry = entry


class Header(NamedTuple):
    """The fields of one 512-byte block that matter for reading."""

    name: str
    kind: bytes
    size: int


def parse_header(block: bytes) -> Header:
    """The header in `block`.

    Raises:
        ValueError: the checksum does not fit, or a number is none.
    """
    if not _checksum_fits(block):
        raise ValueError("its checksum does not fit")
    size = _number(block[124:136])
    if size < 0:
        raise ValueError(f"its size is {size}")
    name, kind = _text(block[:100]), block[156:157]
    if kind == b"\0" and name.endswith("/"):
        kind = FOLDER
    if kind == FOLDER:
        name = name.rstrip("/")
    if block[345] and kind not in GNU_KINDS:
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, kind, size)


def _checksum_fits(block: bytes) -> bool:
    """The stated checksum is the sum of the block's bytes, with spaces in its own place.

    The low half of Adler-32 is one more than that sum modulo 65521, which 512 bytes below 128 cannot reach; summing in
    Python takes longer than the rest of the header.
    """
    field = block[148:156]
    stated = _number(field)
    if block.isascii():
        return stated == (adler32(block) & 0xFFFF) - 1 - sum(field) + 8 * 32
    return stated in tarfile.calc_chksums(block)  # pyright: ignore[reportAttributeAccessIssue]  # signed sums are old and allowed


def _number(field: bytes) -> int:
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0o377:
        return int.from_bytes(field[1:], "big") - (1 << 8 * (len(field) - 1))
    try:
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        pass  # something may stand behind the NUL that ends the number
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise ValueError("a number in it is none") from None


def _text(field: bytes) -> str:
    r"""Bytes that are not UTF-8 become \xNN, so that every key can be printed and written to JSON."""
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


class HeaderReader:
    """Reads the member that starts at a given byte; global pax records hold for the members read after them."""

    def __init__(self, handle: BufferedIOBase, size: int) -> None:
        self.handle = handle
        self.size = size
        self._global: dict[str, str] = {}

    def entry(self, start: int) -> Entry | None:
        """The member whose first header stands at byte `start`, or None where a block of zeros stands.

        Raises:
            TarDamage: no header can be read there.
        """
        block = self._block(start, start)
        if not block[0] and block == ZERO_BLOCK:
            return None
        header = self._header(block, start, start)
        if header.kind in EXTENDED:
            return self._extended(start, header)
        return self._member(start, start + BLOCK, header)

    def _member(self, start: int, data: int, header: Header) -> Entry:
        name, kind, size = header
        if "path" in self._global:
            name = self._global["path"].rstrip("/")
        end = data if kind in WITHOUT_DATA else data + size + -size % BLOCK
        return Entry(name, kind, start, data, size, end)

    def _extended(self, start: int, header: Header) -> Entry:
        """Headers that rename or resize the one behind them; the first of several has the last word."""
        offset, changes = start, []
        while header.kind in EXTENDED:
            changes.append(self._change(start, offset, header))
            offset += BLOCK + header.size + -header.size % BLOCK
            block = self._block(start, offset)
            if block == ZERO_BLOCK:
                raise TarDamage(
                    start, f"zeros at byte {offset}, where the member of a long name or pax header should be"
                )
            header = self._header(block, start, offset)
        entry = self._member(start, offset + BLOCK, header)
        for change in reversed(changes):
            entry = _changed(entry, change)
        return entry

    def _change(self, start: int, offset: int, header: Header) -> dict[str, str]:
        """What the extended header at `offset` says about its member, in pax's words."""
        if header.size > MAX_EXTENDED_BYTES:
            problem = (
                f"the long name or pax header at byte {offset} claims {header.size} bytes, at most {MAX_EXTENDED_BYTES}"
            )
            raise TarDamage(start, problem + " are read")
        self.handle.seek(offset + BLOCK)
        raw = self.handle.read(header.size + -header.size % BLOCK)
        if len(raw) < header.size:
            raise TarDamage(
                start, f"cut short inside the long name or pax header at byte {offset}, at byte {self.size}"
            )
        if header.kind in (b"L", b"K"):
            return {"gnu": _text(raw)} if header.kind == b"L" else {}
        records = self._records(start, offset, raw)
        if header.kind != b"g":
            return self._global | records
        if "size" in records:
            raise TarDamage(start, f"the global pax header at byte {offset} gives all members one size")
        self._global |= records
        return {}

    def _records(self, start: int, offset: int, raw: bytes) -> dict[str, str]:
        """Pax records, `LENGTH KEY=VALUE` and a line's end, where LENGTH counts the whole record."""
        records: dict[str, str] = {}
        position = 0
        while position < len(raw) and raw[position]:
            match = PAX_LENGTH.match(raw, position)
            end = position + int(match[1]) if match else 0
            key, equals, value = raw[match.end() : end - 1].partition(b"=") if match else (b"", b"", b"")
            if not key or not equals or end > len(raw) or raw[end - 1 : end] != b"\n":
                raise TarDamage(start, f"unreadable pax header at byte {offset}")
            records[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
            position = end
        return records

    def _block(self, start: int, offset: int) -> bytes:
        self.handle.seek(offset)
        block = self.handle.read(BLOCK)
        if len(block) < BLOCK:
            raise TarDamage(start, f"cut short inside the header at byte {offset}: the file ends at byte {self.size}")
        return block

    def _header(self, block: bytes, start: int, offset: int) -> Header:
        try:
            return parse_header(block)
        except ValueError as error:
            problem = f"unreadable header at byte {offset} ({error}), with data behind it up to {self.size}"
            raise TarDamage(start, problem) from error


def _changed(entry: Entry, change: dict[str, str]) -> Entry:
    if "gnu" in change:
        name = change["gnu"]
        return entry._replace(name=name.removesuffix("/") if entry.kind == FOLDER else name)
    if "path" in change:
        entry = entry._replace(name=change["path"].rstrip("/"))
    if any(key.startswith("GNU.sparse.") for key in change):
        entry = entry._replace(kind=SPARSE)
    if "size" in change:
        size = int(change["size"]) if change["size"].isdecimal() else 0
        end = entry.data if entry.kind in WITHOUT_DATA else entry.data + size + -size % BLOCK
        entry = entry._replace(size=size, end=end)
    return entry
