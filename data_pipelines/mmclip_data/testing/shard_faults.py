"""Small shards whose every byte is known, and the ways in which shards are damaged in the world; both from a seed."""

import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from PIL import Image

from mmclip_data.shards.headers import BLOCK
from mmclip_data.shards.write import member_header

EXTENSIONS = ("jpg", "json", "txt")
END = bytes(2 * BLOCK)
Range = tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """One member and its place: first byte of header and payload, and of what follows the padding."""

    key: str
    extension: str
    payload: bytes
    header: int
    data: int
    end: int


@dataclass(frozen=True)
class MadeShard:
    """The bytes of a tar, and what they hold."""

    raw: bytes
    members: tuple[Placed, ...]

    @cached_property
    def samples(self) -> dict[str, dict[str, bytes]]:
        """Payloads by key and extension."""
        found: dict[str, dict[str, bytes]] = {}
        for member in self.members:
            found.setdefault(member.key, {})[member.extension] = member.payload
        return found

    def untouched(self, ranges: Iterable[Range]) -> frozenset[str]:
        """Keys of the samples that have no byte, header or payload, in any of `ranges`."""
        hit = {
            member.key for member in self.members for start, end in ranges if start < member.end and member.header < end
        }
        return frozenset(self.samples.keys() - hit)


@dataclass(frozen=True)
class Damage:
    """A damaged shard: its bytes, the samples that came through whole, and the bytes of the original that did not."""

    name: str
    raw: bytes
    intact: frozenset[str]
    ranges: tuple[Range, ...]


def picture(source: random.Random, side: int = 24, kind: str = "JPEG") -> bytes:
    """A small picture of noise; its encoded length varies with the seed."""
    image = Image.frombytes("RGB", (side // 4, side // 4), source.randbytes(3 * (side // 4) ** 2)).resize((side, side))
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=70)
    return buffer.getvalue()


def make_shard(samples: int = 8, seed: int = 0) -> MadeShard:
    """A shard of `samples` pictures with captions and facts, about 2.5 KB each."""
    source = random.Random(seed)
    contents = []
    for number in range(samples):
        words = " ".join(source.choice(["red", "blue", "boat", "tree", "cat"]) for _ in range(source.randint(2, 9)))
        facts = f'{{"number": {number}, "caption": "{words}"}}'.encode()
        payloads = {"jpg": picture(source), "json": facts, "txt": words.encode()}
        contents += [(f"{number:06d}", extension, payloads[extension]) for extension in EXTENSIONS]
    return lay_out(contents)


def lay_out(contents: Sequence[tuple[str, str, bytes]]) -> MadeShard:
    """The tar of these (key, extension, payload), in this order, however odd."""
    raw, members = bytearray(), []
    for key, extension, payload in contents:
        header = len(raw)
        raw += member_header(f"{key}.{extension}", len(payload)) + payload + bytes(-len(payload) % BLOCK)
        members.append(Placed(key, extension, payload, header, header + BLOCK, len(raw)))
    return MadeShard(bytes(raw) + END, tuple(members))


def overwrite(raw: bytes, start: int, new: bytes) -> bytes:
    """`raw` with `new` at byte `start`, as long as before."""
    return raw[:start] + new[: len(raw) - start] + raw[start + len(new) :]


def restate_size(raw: bytes, member: Placed, field: bytes) -> bytes:
    """Another size in a member's header, under a checksum that fits it."""
    header = bytearray(overwrite(raw, member.header + 124, field.ljust(12, b"\0"))[member.header : member.data])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return overwrite(raw, member.header, bytes(header))


def structural_damages(shard: MadeShard, seed: int = 0) -> list[Damage]:
    """Every way that breaks the chain of headers; a reader without an index must notice each of them."""
    source = random.Random(seed)
    makers: list[Callable[[MadeShard, random.Random], Iterator[Damage]]] = [
        _headers,
        _zeros_and_noise,
        _cuts,
        _shifts,
        _sizes,
        _several,
    ]
    return [damage for make in makers for damage in make(shard, source)]


def bit_flips(shard: MadeShard, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Keys, and the shard with one bit of one of that sample's payloads flipped; the chain of headers stays sound."""
    source = random.Random(seed)
    members = [member for member in shard.members if member.payload]
    for _ in range(count):
        member = source.choice(members)
        place = member.data + source.randrange(len(member.payload))
        yield member.key, overwrite(shard.raw, place, bytes([shard.raw[place] ^ 1 << source.randrange(8)]))


def _damage(shard: MadeShard, name: str, raw: bytes, *ranges: Range) -> Damage:
    return Damage(name, raw, shard.untouched(ranges), ranges)


def _headers(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """One header made unreadable: zeros, or a flipped bit in its name, its size or its checksum."""
    for number, member in enumerate(shard.members[:20]):
        block = (member.header, member.data)
        yield _damage(shard, f"zeros over header {number}", overwrite(shard.raw, member.header, bytes(BLOCK)), block)
        for field, place in (("name", 3), ("size", 130), ("checksum", 150)):
            if number % 3 == 0 or field == "checksum":
                flipped = bytes([shard.raw[member.header + place] ^ 1 << source.randrange(3)])
                raw = overwrite(shard.raw, member.header + place, flipped)
                yield _damage(shard, f"bit of the {field} in header {number}", raw, block)


def _zeros_and_noise(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """A stretch over at least one header: what a lost disk block or a failed write leaves."""
    for number in range(2, 20, 3):
        member = shard.members[number]
        start = member.header - source.randrange(BLOCK)
        for name, length in (("zeros", source.randint(1024, 4096)), ("noise", source.randint(1024, 4096))):
            new = bytes(length) if name == "zeros" else source.randbytes(length)
            yield _damage(
                shard, f"{name} from {start} for {length}", overwrite(shard.raw, start, new), (start, start + length)
            )


def _cuts(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """The file ends early: inside a payload, inside a header, between members, before the end-of-archive blocks."""
    for member in (*shard.members[5:22:3], shard.members[-1]):
        places = {
            "inside a payload": member.data + source.randrange(len(member.payload)),
            "inside a header": member.header + source.randrange(1, BLOCK),
            "between members": member.end,
        }
        for name, size in places.items():
            yield _damage(shard, f"cut {name} at {size}", shard.raw[:size], (size, len(shard.raw)))


def _shifts(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """Bytes put in or taken out, so that everything behind moves."""
    for number in range(1, 20, 6):
        place = shard.members[number].header
        for what, new in (("noise", source.randbytes(BLOCK)), ("odd noise", source.randbytes(333)), ("zeros", END)):
            raw = shard.raw[:place] + new + shard.raw[place:]
            yield _damage(shard, f"{len(new)} bytes of {what} put in at {place}", raw)
        inside = place + source.randrange(8, 148)  # within name, size or checksum: a whole member gone breaks no chain
        gone = source.choice((100, 512, 700))
        raw = shard.raw[:inside] + shard.raw[inside + gone :]
        yield _damage(shard, f"{gone} bytes taken out at {inside}", raw, (inside, inside + gone))
    yield _damage(shard, "joined by cat", lay_out([("other", "jpg", b"x"), ("other", "txt", b"y")]).raw + shard.raw)


def _sizes(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """A size that is not the payload's, under a checksum that fits: a writer's fault."""
    for number in (0, 9, 13, 19):
        member = shard.members[number]
        size = len(member.payload)
        fields = {
            "8 GiB": b"\x80" + (8 << 30).to_bytes(11, "big"),
            "less than nothing": b"\xff" * 12,
            "nothing": b"%011o" % 0,
            "a block more": b"%011o" % (size + BLOCK),
            "three blocks more": b"%011o" % (size + 3 * BLOCK),
        }
        if size > BLOCK:
            fields |= {"a block less": b"%011o" % (size - BLOCK), "one block": b"%011o" % BLOCK}
        for name, field in fields.items():
            raw = restate_size(shard.raw, member, field)
            yield _damage(shard, f"member {number} claims {name}", raw, (member.header, member.end))


def _several(shard: MadeShard, source: random.Random) -> Iterator[Damage]:
    """Three headers lost, and sometimes the end too."""
    for number in range(8):
        raw, ranges = shard.raw, []
        for member in source.sample(shard.members, 3):
            raw = overwrite(raw, member.header, bytes(BLOCK) if source.random() < 0.5 else source.randbytes(BLOCK))
            ranges.append((member.header, member.data))
        if number % 2:
            cut = source.randrange(len(raw) * 3 // 4, shard.members[-1].end)
            raw, ranges = raw[:cut], [*ranges, (cut, len(shard.raw))]
        yield replace(_damage(shard, "", raw, *ranges), name=f"several, {number}")
