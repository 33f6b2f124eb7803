"""The index of a shard: where every member lies, how long it is, its XXH3-64 checksum, and what its samples look like.

The file beside the tar is described in `docs/shard_index.md`; `index.py` reads and writes it.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import xxhash

from mmclip.errors import UserError

FORMAT_VERSION = 2
MEMBER_COLUMNS: dict[str, type[np.unsignedinteger]] = {
    "member_sample": np.uint32,  # one row a member, sorted by sample, then by extension
    "member_extension": np.uint16,  # position in the header's sorted list of extensions
    "member_offset": np.uint64,  # of the first byte of the payload in the tar
    "member_size": np.uint64,
    "member_xxh3": np.uint64,
}
IDENTITY_COLUMNS: dict[str, type[np.unsignedinteger]] = MEMBER_COLUMNS | {
    "sample_first_member": np.uint64,  # one row a sample, and one more at the end
    "key_offset": np.uint64,  # one row a sample, and one more at the end
    "key_bytes": np.uint8,  # all keys in UTF-8, end to end
}
FACT_COLUMNS: dict[str, type[np.unsignedinteger]] = {
    "sample_width": np.uint32,  # one row a sample: pixels of its picture as stored, 0 where unknown
    "sample_height": np.uint32,
    "sample_format": np.uint8,  # position in `pictures.FORMATS`, by the picture's first bytes
    "sample_caption_bytes": np.uint32,  # of its text member, 0 where it has none
}
COLUMNS = IDENTITY_COLUMNS | FACT_COLUMNS
LAYOUT_COLUMNS = {"member_offset"}  # say where the bytes lie, not what they are


@runtime_checkable
class Columns(Protocol):
    """Vectors by name: a dictionary while an index is built, parts of a mapped file afterwards."""

    def __getitem__(self, name: str, /) -> np.ndarray: ...


class Rows(NamedTuple):
    """The columns that say where a sample lies, as memory whose single rows are read in a quarter of numpy's time."""

    member_sample: memoryview
    member_extension: memoryview
    member_offset: memoryview
    member_size: memoryview
    member_xxh3: memoryview
    sample_first_member: memoryview
    key_offset: memoryview
    key_bytes: memoryview


def single_rows(columns: Columns) -> Rows:
    """The rows of whole columns."""
    return Rows(*(columns[name].data for name in Rows._fields))


Place = tuple[str, int, int, int]
"""A member as `ShardIndex.places` gives it: extension, offset, size, checksum."""


class Member(NamedTuple):
    """One file of a sample: the payload's first byte in the tar, its length in bytes, its XXH3-64."""

    offset: int
    size: int
    checksum: int


@dataclass(frozen=True)
class Salvage:
    """What a damaged shard has lost; the lists hold the first hundred, the numbers count all."""

    lost_bytes: int = 0
    num_ranges: int = 0
    ranges: tuple[tuple[int, int, str], ...] = ()
    """First byte, byte behind the last, and what was found there."""
    num_quarantined: int = 0
    quarantined: tuple[tuple[str, str], ...] = ()
    """Keys of samples that are not whole, and why; a sample whose names were lost too has only its range."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Random access to the samples of one shard; samples stand in the order of their first member in the tar.

    The columns of an index that was opened are mapped at their first use and checked row by row as they are used.
    """

    tar_size: int
    num_samples: int
    num_members: int
    extensions: tuple[str, ...]
    columns: Columns = field(repr=False)
    ignored_members: int = 0
    ignored_names: tuple[str, ...] = ()
    mislabelled: Mapping[str, int] = field(default_factory=dict)
    """How many pictures are not what their extension says, by `"EXTENSION holds FORMAT"`."""
    salvage: Salvage | None = None
    stored_fingerprint: str | None = None
    stored_checksum: str | None = None
    version: int = FORMAT_VERSION

    def key(self, sample: int) -> str:
        """The WebDataset key of the sample: the members' path up to the first dot of the file name."""
        return self._key(self._rows, sample)

    def entry(self, sample: int, wanted: Collection[str] | None = None) -> tuple[str, list[Place]]:
        """The key of a sample and the members of the extensions in `wanted` (None: of all), in alphabetical order.

        Raises:
            UserError: the index file is damaged at this sample.
        """
        rows = self._rows  # asked for once: another thread may release them in between
        return self._key(rows, sample), self._places(rows, sample, wanted)

    def members(self, sample: int) -> dict[str, Member]:
        """The sample's members by lower-cased extension, in alphabetical order.

        Raises:
            UserError: the index file is damaged at this sample.
        """
        return {place[0]: Member(*place[1:]) for place in self._places(self._rows, sample, None)}

    def _places(self, rows: Rows, sample: int, wanted: Collection[str] | None) -> list[Place]:
        # Called for every sample of a run: plain tuples and one loop, since each call more costs a thirtieth of the read.
        owners, numbers, offsets, sizes, checksums, firsts, _, _ = rows
        start, end = self._bounds(firsts, "sample_first_member", sample, self.num_members)
        extensions, tar_size = self.extensions, self.tar_size
        found: list[Place] = []
        previous, last = -1, len(extensions)
        for row in range(start, end):
            number, offset, size = numbers[row], offsets[row], sizes[row]
            if owners[row] != sample or not previous < number < last or offset + size > tar_size:
                raise self._damaged(f"member {number} of sample {sample} contradicts the rest")
            extension, previous = extensions[number], number
            if wanted is None or extension in wanted:
                found.append((extension, offset, size, checksums[row]))
        return found

    def extension_counts(self) -> dict[str, int]:
        """How many samples have a member of each extension."""
        counts = np.bincount(self.columns["member_extension"], minlength=len(self.extensions))
        return dict(zip(self.extensions, counts.tolist(), strict=True))

    def samples_without(self, extensions: Collection[str]) -> np.ndarray:
        """Numbers of the samples that have no member of `extensions`."""
        wanted = [number for number, extension in enumerate(self.extensions) if extension in extensions]
        rows = np.isin(self.columns["member_extension"], wanted)
        has = np.zeros(self.num_samples, bool)
        has[self.columns["member_sample"][rows]] = True
        return np.flatnonzero(~has)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the samples (keys, extensions, sizes, checksums, in order), wherever they lie."""
        return self.stored_fingerprint or self.computed_fingerprint

    @cached_property
    def computed_fingerprint(self) -> str:
        """The fingerprint from the columns themselves: reads all of them."""
        digest = xxhash.xxh3_128(json.dumps(self.extensions).encode())
        for name in IDENTITY_COLUMNS:
            if name not in LAYOUT_COLUMNS:
                digest.update(name.encode() + xxhash.xxh3_128_digest(np.ascontiguousarray(self.columns[name]).data))
        return digest.hexdigest()

    @cached_property
    def checksum(self) -> str:
        """32 hex digits of all columns, also those that say where bytes lie and what a picture looks like."""
        digest = xxhash.xxh3_128()
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(self.columns[name]).data)
        return digest.hexdigest()

    def first_problem(self) -> str | None:
        """What contradicts itself anywhere in the columns, or None: reads all of them, which no opening does."""
        columns = self.columns
        if columns["member_extension"].max(initial=0) >= max(len(self.extensions), 1):
            return "a member's extension is not in the header's list"
        size, offset = columns["member_size"], columns["member_offset"]
        if np.any(offset > self.tar_size) or np.any(size > self.tar_size - offset):
            return f"a member ends past the tar's {self.tar_size} bytes"
        for name, end in (("sample_first_member", self.num_members), ("key_offset", len(columns["key_bytes"]))):
            steps = columns[name]
            if steps[0] != 0 or steps[-1] != end or np.any(steps[1:] <= steps[:-1]):
                return f"column {name} does not rise from 0 to {end}"
        if self.stored_fingerprint not in (None, self.computed_fingerprint):
            return "the columns do not have the fingerprint that the header names"
        if self.stored_checksum not in (None, self.checksum):
            return "the columns do not have the checksum that the header names"
        return None

    @property
    def _rows(self) -> Rows:
        mapped = getattr(self.columns, "rows", None)
        return self._rows_in_memory if mapped is None else mapped

    @cached_property
    def _rows_in_memory(self) -> Rows:
        return single_rows(self.columns)

    def _key(self, rows: Rows, sample: int) -> str:
        content = rows.key_bytes
        start, end = self._bounds(rows.key_offset, "key_offset", sample, len(content))
        return str(content[start:end], "utf-8", "backslashreplace")

    def _bounds(self, column: memoryview, name: str, sample: int, limit: int) -> tuple[int, int]:
        if not 0 <= sample < self.num_samples:
            raise IndexError(f"sample {sample} of a shard with {self.num_samples} samples")
        start, end = column[sample], column[sample + 1]
        if not start < end <= limit:
            raise self._damaged(f"column {name} does not rise at sample {sample}")
        return start, end

    def _damaged(self, problem: str) -> UserError:
        return UserError(
            f"index {getattr(self.columns, 'path', 'in memory')}: {problem}; "
            "the file is damaged: make it again with `mmclip shards index --force`"
        )
