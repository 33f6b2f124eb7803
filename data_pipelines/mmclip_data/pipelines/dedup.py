"""Shards without pictures that come again: the same bytes, and if asked, those that look the same. The first is kept.

    mmclip shards dedup data/mine/train --output data/mine-once
    mmclip shards dedup data/mine/train --output data/mine-once --near phash --distance 4

Equal bytes are told from the indexes alone (length and XXH3-64), so that nothing is read but what is copied.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.decode import decode_image
from mmclip_data.pipelines.job import Dropped, JobReport, Kept, Outcome, Track, in_order, quiet
from mmclip_data.pipelines.job.workers import worker_count
from mmclip_data.pipelines.near_duplicates import BITS, first_alike, is_flat
from mmclip_data.pipelines.pairs import too_large
from mmclip_data.pipelines.rewrite import InputRows, Inputs, RewriteConfig, open_inputs, rewrite
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.names import IMAGE_EXTENSIONS

SAME_BYTES, SAME_SAMPLE = "picture has the same bytes", "sample has the same bytes"
Near = Literal["phash", "dhash", "average_hash", "whash"]
Marks = NDArray[np.uint64]
"""Two words a sample that are equal where the bytes are: a hash, and a length."""


@config
class DedupConfig(RewriteConfig):
    """Keep the first of the samples whose pictures are the same; the members of those are copied as they are."""

    by: Literal["picture", "sample"] = "picture"
    """What must have the same bytes: the picture, or every member of the sample."""
    near: Near | None = None
    """Also drop pictures that look alike, by this perceptual hash of the imagehash library."""
    distance: int = 4
    """With `near`: in how many of the 64 bits of two hashes they may differ."""


@dataclass(frozen=True)
class _Copy:
    """The work on some rows: those that are the first of their kind are copied."""

    inputs: Inputs
    original: NDArray[np.int64]
    reasons: dict[int, str]
    keep_keys: bool

    def __call__(self, rows: list[int]) -> list[Outcome]:
        return [self._outcome(row) for row in rows]

    def _outcome(self, row: int) -> Outcome:
        if row in self.reasons:
            return Dropped(self.inputs.name(row), self.reasons[row], of=self.inputs.name(int(self.original[row])))
        members = self.inputs.read(row)
        return (
            members if isinstance(members, Dropped) else Kept(members, self.inputs.key(row) if self.keep_keys else None)
        )


def make_dedup(config: DedupConfig, track: Track = quiet) -> JobReport:
    """Write the first sample of each group, in their order; `dropped.jsonl` says whose duplicate each other one is.

    Raises:
        UserError: the library for `near` is not installed, or `distance` is out of its range.
    """
    if config.near is not None:
        _hash_function(config.near)
        if not 0 <= config.distance <= BITS // 4:
            raise UserError(f"distance={config.distance}: expected 0 to {BITS // 4} of {BITS} bits")
    inputs = open_inputs(config, track)
    marks = np.concatenate([_marks(index, config.by) for index in inputs.indexes])
    original = first_equal(marks)
    rows = np.arange(len(inputs))
    same = SAME_BYTES if config.by == "picture" else SAME_SAMPLE
    reasons = dict.fromkeys(np.flatnonzero(original != rows).tolist(), same)
    notes = []
    if config.near is not None:
        notes = _add_near(config, inputs, original, reasons, track)
    work = _Copy(inputs, original, reasons, config.keys == "keep")
    report = rewrite("dedup", config, inputs, rows, work, track, imagehash=_version(config.near))
    return JobReport(report.output, report.counts, report.dropped, [*report.notes, *notes])


def first_equal(marks: Marks) -> NDArray[np.int64]:
    """For each row of `marks` the first row that equals it; rows of zeros (no picture) equal nothing."""
    _, first, member = np.unique(marks, axis=0, return_index=True, return_inverse=True)
    found = first[member.reshape(-1)]
    return np.where(marks.any(axis=1), found, np.arange(len(marks)))


def _marks(index: ShardIndex, by: str) -> Marks:
    marks = np.zeros((index.num_samples, 2), np.uint64)
    if by == "picture":
        columns = index.columns
        for extension in reversed([name for name in IMAGE_EXTENSIONS if name in index.extensions]):
            rows = np.flatnonzero(columns["member_extension"] == index.extensions.index(extension))
            marks[columns["member_sample"][rows], 0] = columns["member_xxh3"][rows]
            marks[columns["member_sample"][rows], 1] = columns["member_size"][rows]
        return marks
    for row in range(index.num_samples):
        facts = "".join(f"{name} {member.size} {member.checksum}\n" for name, member in index.members(row).items())
        marks[row] = np.frombuffer(xxhash.xxh3_128_digest(facts.encode()), np.uint64)
    return marks


@dataclass(frozen=True)
class _Hashes:
    """The work of hashing some pictures: 64 bits each, or None for one that cannot be decoded."""

    inputs: Inputs
    near: Near

    def __call__(self, rows: list[int]) -> list[int | None]:
        return [self._hash(row) for row in rows]

    def _hash(self, row: int) -> int | None:
        members = self.inputs.read(row, IMAGE_EXTENSIONS)
        chosen = None
        if not isinstance(members, Dropped):
            chosen = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if chosen is None:
            return None
        if too_large(chosen):
            return None
        try:
            bits = _hash_function(self.near)(decode_image(chosen)).hash
        except BadSampleError:
            return None
        return int.from_bytes(np.packbits(np.asarray(bits, bool).reshape(-1)).tobytes(), "big")


def _add_near(
    config: DedupConfig, inputs: Inputs, original: NDArray[np.int64], reasons: dict[int, str], track: Track
) -> list[str]:
    """Fill `original` and `reasons` with what looks alike among what is left."""
    assert config.near is not None
    rows = np.array([row for row in range(len(inputs)) if row not in reasons], np.int64)
    work, items = _Hashes(inputs, config.near), InputRows(rows)
    pieces = in_order(work, items.pieces(0), worker_count(config.workers))
    found = list(track((value for piece in pieces for value in piece), len(rows), config.near))
    hashed = np.array([value is not None for value in found], bool)
    hashes = np.array([value or 0 for value in found], np.uint64)
    flat = hashed & is_flat(hashes)
    compared = np.flatnonzero(hashed & ~flat)
    first = compared[first_alike(hashes[compared], config.distance)] if len(compared) else compared
    for place, of in zip(compared.tolist(), first.tolist(), strict=True):
        if place != of:
            original[rows[place]] = rows[of]
            reasons[int(rows[place])] = f"picture looks the same ({config.near}, {config.distance} bits)"
    notes = [f"{int(flat.sum()):,} pictures of one colour were not compared by {config.near}"] if flat.any() else []
    unread = int((~hashed).sum())
    return notes + (
        [f"{unread:,} pictures that are too large or cannot be decoded were not compared"] if unread else []
    )


@functools.cache
def _hash_function(near: Near) -> Callable[[Any], Any]:
    try:
        import imagehash
    except ImportError as error:
        raise UserError(f"near={near!r} needs the imagehash library: pip install 'mmclip[dedup]'") from error
    return getattr(imagehash, near)


def _version(near: Near | None) -> str | None:
    """A hash is only as stable as the library that makes it."""
    if near is None:
        return None
    import imagehash

    return str(imagehash.__version__)
