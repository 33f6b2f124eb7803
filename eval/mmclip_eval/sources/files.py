"""`FileSamples`: samples whose pictures are files, each with what a table, an annotation or its folder says of it."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.pipelines.pairs import plain
from mmclip_data.shards.names import IMAGE_EXTENSIONS

HASHED_AT_ONCE = 8
"""Files read at the same time for the fingerprint; more help no disk."""
PIECE = 256
"""Samples that a thread takes at a time."""


Member = bytes | Path | Mapping[str, Any]
"""Bytes, a file, or what is written as JSON."""


@dataclass(frozen=True, slots=True)
class FileSample:
    """One sample before anything of it is read."""

    key: str
    """What is its own in its identity."""
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """By member; one, unless the configuration names several."""
    members: Mapping[str, Member] = field(default_factory=dict)
    bad: str = ""
    """Why it is of no use, where that is known."""


class FileSamples:
    """`count` samples, each made by `sample` when it is asked for, so that a million of them cost little."""

    several_pictures = 0

    def __init__(self, name: str, count: int, sample: Callable[[int], FileSample]) -> None:
        self.name = name
        self._count = count
        self._sample = sample
        bad = ((index, problem(sample(index))) for index in range(count))
        self.bad: Mapping[int, str] = {index: reason for index, reason in bad if reason}
        """Samples that cannot be used, such as those whose picture is missing."""

    def __len__(self) -> int:
        return self._count

    @property
    def fingerprint(self) -> str:
        """Of the contents of all files and members, in order; not of the folder that they lie in."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_128()
        for index, hashes in enumerate(self._picture_hashes):
            sample = self._sample(index)
            digest.update(repr((list(sample.pictures), hashes, sample.bad != "")).encode())
            for name, content in self._contents(sample, sample.members).items():
                digest.update(f"{name} {len(content)} ".encode() + content)
        return digest.hexdigest()

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        return Counter(extension for index in range(len(self)) for extension in self.extensions(index))

    def sample_id(self, index: int) -> str:
        return f"{self.name}/{self._at(index).key}"

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's pictures and members."""
        sample = self._at(index)
        return (*sample.pictures, *sample.members)

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture, the first where there are several.

        Raises:
            BadSampleError: there is none, it cannot be read, or it is another than when the set was opened.
        """
        sample = self._at(index)
        name = next(iter(sample.pictures), None)
        if name is None or sample.bad:
            raise BadSampleError(self.bad.get(index, "no picture"))
        return self._picture(index, sample, name)

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has.

        Raises:
            UserError: one cannot be read.
        """
        sample = self._at(index)
        found = self._contents(sample, [name for name in sample.members if name in extensions])
        try:
            return found | {name: self._picture(index, sample, name) for name in sample.pictures if name in extensions}
        except BadSampleError as error:
            raise UserError(f"sample {self.sample_id(index)} cannot be read: {error}") from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _at(self, index: int) -> FileSample:
        if not 0 <= index < self._count:
            raise IndexError(f"sample {index} of {self._count} in {self.name}")
        return self._sample(index)

    @cached_property
    def _picture_hashes(self) -> list[tuple[int | None, ...]]:
        pieces = [range(start, min(start + PIECE, self._count)) for start in range(0, self._count, PIECE)]
        with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
            found = pool.map(lambda piece: [_hashes(self._sample(index)) for index in piece], pieces)
            return list(chain.from_iterable(found))

    def _picture(self, index: int, sample: FileSample, name: str) -> bytes:
        path = sample.pictures[name]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadSampleError(f"{path}: {error.strerror}") from error
        known = "_picture_hashes" in self.__dict__  # computed when the fingerprint was first asked for
        if known and self._picture_hashes[index][list(sample.pictures).index(name)] != xxhash.xxh3_64_intdigest(
            content
        ):
            raise BadSampleError(f"{path}: its bytes are others than when the set was opened")
        return content

    def _contents(self, sample: FileSample, names: Iterable[str]) -> dict[str, bytes]:
        return {name: self._content(sample, sample.members[name]) for name in names}

    def _content(self, sample: FileSample, member: Member) -> bytes:
        if isinstance(member, bytes):
            return member
        if isinstance(member, Path):
            try:
                return member.read_bytes()
            except OSError as error:
                raise UserError(f"sample {self.name}/{sample.key}: {member}: {error.strerror}") from error
        # What is no text passes, and is told when it is read as UTF-8.
        return json.dumps(plain(member), ensure_ascii=False).encode(errors="surrogatepass")


def problem(sample: FileSample) -> str:
    """Why a sample is of no use; empty where nothing speaks against it."""
    if sample.bad or not sample.pictures:
        return sample.bad or "has no picture"
    for path in sample.pictures.values():
        if path.suffix[1:].lower() not in IMAGE_EXTENSIONS:
            return f"has no picture that is read: {path.name}, expected {', '.join(IMAGE_EXTENSIONS)}; convert it"
        if not path.is_file():
            return f"has no picture: {path} is no file; where paths begin elsewhere, set image_folder"
    return ""


def picture_member(path: Path) -> str:
    """The member that a picture stands under: the ending of its file."""
    return path.suffix[1:].lower()


def _hashes(sample: FileSample) -> tuple[int | None, ...]:
    return tuple(map(_hash_of, sample.pictures.values()))


def _hash_of(path: Path) -> int | None:
    try:
        facts = path.stat()
        return _hashed(path, facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=1 << 18)  # a run in training opens its sets again and again
def _hashed(path: Path, size: int, changed: int) -> int:
    return xxhash.xxh3_64_intdigest(path.read_bytes())
