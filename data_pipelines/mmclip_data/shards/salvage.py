"""What can be kept of a damaged tar, and an account of the rest.

Only the structure can be judged here: a payload whose bits have rotted under a sound header looks whole until it is
decoded. An index made before the damage knows better (`on_damage = "quarantine"`).
"""

from collections import Counter
from io import BufferedIOBase

from mmclip_data.shards.build import IndexBuilder
from mmclip_data.shards.columns import Salvage
from mmclip_data.shards.headers import BLOCK, ZERO_BLOCK, Entry, TarDamage, parse_header
from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, split_name

MAX_LISTED = 100
MAGIC, MAGIC_OFFSET = b"ustar", 257
NAME_BYTES = 100
CHUNK_BYTES = 1 << 20


def find_header(handle: BufferedIOBase, start: int, stop: int) -> int | None:
    """The first byte from `start` and before `stop` where a header with magic and a fitting checksum stands, or None.

    Headers need not stand at multiples of 512: bytes may have been lost or put in between.
    """
    position, tail = start, b""
    handle.seek(start)
    while position < stop + BLOCK and (chunk := handle.read(CHUNK_BYTES)):
        data = tail + chunk
        found = data.find(MAGIC)
        while found >= 0:
            candidate = position - len(tail) + found - MAGIC_OFFSET
            if start <= candidate < stop and _is_header(handle, candidate, position + len(chunk)):
                return candidate
            found = data.find(MAGIC, found + 1)
        position += len(chunk)
        tail = data[-(len(MAGIC) - 1) :]
    return None


def _is_header(handle: BufferedIOBase, offset: int, resume: int) -> bool:
    handle.seek(offset)
    block = handle.read(BLOCK)
    handle.seek(resume)
    try:
        return len(block) == BLOCK and bool(parse_header(block))
    except ValueError:
        return False


class Salvager:
    """Decides, at each damage, where to read on and what can no longer be trusted."""

    def __init__(self, handle: BufferedIOBase, size: int, builder: IndexBuilder) -> None:
        self.handle = handle
        self.size = size
        self.builder = builder
        self._ranges: list[tuple[int, int, str]] = []
        self._lost: dict[str, str] = {}
        self._gaps: list[int] = []
        self._after_gap = False

    def resume(self, damage: TarDamage, last: Entry | None) -> int:
        """The byte to read on from after `damage`; `last` is the member before it, if that was sound."""
        if damage.entry is not None:
            self._lose_member(damage.entry.name, str(damage))
            if damage.entry.end <= self.size:
                return damage.entry.end
            return self._lose(damage.start, self._next(damage.entry.data), damage)
        block = self._read(damage.start, BLOCK)
        if last is not None and last.end == damage.start and self._has_wrong_size(last, block):
            self._lose_member(last.name, f"its size cannot be {last.size} bytes: {damage}")
            inside = self._inside(last)
            return self._lose(last.start, self._next(damage.start + 1) if inside is None else inside, damage)
        name = _readable_name(block)
        if name:
            self._lose_member(name, str(damage))
        return self._lose(damage.start, self._next(damage.start + 1), damage)

    def doubts(self, entry: Entry) -> bool:
        """Whether a member behind a gap may have lost its real name, which a header of its own held."""
        bare, self._after_gap = self._after_gap and entry.data - entry.start == BLOCK, False
        return bare and (len(entry.name.encode()) >= NAME_BYTES or "?" in entry.name)

    def _lose_member(self, name: str, reason: str) -> None:
        """Quarantine the sample that a member of this name belongs to."""
        split = split_name(name)
        self._lost.setdefault(split[0] if split else name, reason)

    def _has_wrong_size(self, last: Entry, block: bytes) -> bool:
        """Whether the member before a damage claims too much (a header lies in it) or too little (it goes on behind it).

        Where no padding tells, the member is trusted if what follows at least resembles a header.
        """
        if self._inside(last) is not None:
            return True
        padding = self._read(last.data + last.size, -last.size % BLOCK)
        if padding:
            return any(padding)
        resembles = len(block) < BLOCK or block == ZERO_BLOCK or MAGIC in block or _readable_name(block)
        return not resembles

    def _inside(self, last: Entry) -> int | None:
        """A header within the payload of `last`; a payload that starts with one is itself a tar."""
        found = find_header(self.handle, last.data, last.end)
        return None if found == last.data else found

    def _next(self, start: int) -> int:
        """The next header from `start` on, or the end of the file."""
        found = find_header(self.handle, start, self.size)
        return self.size if found is None else found

    def _lose(self, start: int, end: int, damage: TarDamage) -> int:
        # Where the padding of the last member was cut, the next header should stand behind the end of the file.
        self._ranges.append((min(start, end), end, str(damage)))
        self._gaps.append(len(self.builder.owner))
        self._after_gap = True
        return end

    def _read(self, offset: int, count: int) -> bytes:
        self.handle.seek(offset)
        return self.handle.read(count)

    def finish(self) -> tuple[set[int], Salvage]:
        """The samples to leave out of the index, and the account for its header."""
        keys = list(self.builder.samples)
        for sample, reason in self._partial().items():
            self._lost.setdefault(keys[sample], reason)
        for sample in self._twice():
            self._lost.setdefault(keys[sample], "two members with one extension")
        without = {self.builder.samples[key] for key in self._lost if key in self.builder.samples}
        return without, Salvage(
            lost_bytes=sum(end - start for start, end, _ in self._ranges),
            num_ranges=len(self._ranges),
            ranges=tuple(self._ranges[:MAX_LISTED]),
            num_quarantined=len(self._lost),
            quarantined=tuple(list(self._lost.items())[:MAX_LISTED]),
        )

    def _partial(self) -> dict[int, str]:
        """Samples beside a gap that have less than samples usually have; anywhere, if members do not stand together."""
        kinds: dict[int, set[str]] = {}
        names = [_kind(extension) for extension in self.builder.extensions]
        last_row: dict[int, int] = {}
        together = True
        for row, (owner, extension) in enumerate(zip(self.builder.owner, self.builder.extension, strict=True)):
            together &= last_row.get(owner, row - 1) == row - 1
            last_row[owner] = row
            kinds.setdefault(owner, set()).add(names[extension])
        rows = range(len(self.builder.owner))
        beside = {self.builder.owner[row] for gap in self._gaps for row in (gap - 1, gap) if row in rows}
        doubtful = (beside if together else set(kinds)) if self._gaps else set()
        sound = [frozenset(found) for sample, found in kinds.items() if sample not in beside]
        counts = Counter(sound or map(frozenset, kinds.values()))
        usual = max(counts, key=lambda found: (counts[found] if sound else 0, len(found)), default=frozenset())
        return {
            sample: f"beside lost bytes, without {', '.join(sorted(usual - kinds[sample]))}"
            for sample in sorted(doubtful)
            if kinds[sample] < usual
        }

    def _twice(self) -> list[int]:
        members = Counter(zip(self.builder.owner, self.builder.extension, strict=True))
        return sorted({owner for (owner, _), count in members.items() if count > 1})


def _kind(extension: str) -> str:
    if extension in IMAGE_EXTENSIONS:
        return "picture"
    return "caption" if extension in CAPTION_EXTENSIONS else extension


def _readable_name(block: bytes) -> str | None:
    """The name in the first field of a damaged header, if it is one that a sample could have."""
    raw, end, rest = block[:NAME_BYTES].partition(b"\0")
    if not end or rest.strip(b"\0") or b"PaxHeader" in raw or not raw.isascii() or not raw.decode().isprintable():
        return None
    name = raw.decode()
    return name if split_name(name) else None
