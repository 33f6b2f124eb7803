"""One shard, read from its first byte to its last: the tar, its index, and what training would make of each sample."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.caption_fields import fields_of_shards
from mmclip_data.loading.captions import captions_of, members_of
from mmclip_data.loading.decode import MAX_ASPECT, MAX_BYTES, MAX_PIXELS
from mmclip_data.pipelines.check.findings import Effect, Finding, Findings
from mmclip_data.pipelines.pairs import too_large, undecodable
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.index import index_path, load_index
from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS
from mmclip_data.shards.pictures import FORMAT_OF_EXTENSION, FORMATS, look_at
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index

Row = tuple[str, str]
READABLE = sorted(set(FORMAT_OF_EXTENSION.values()))


@dataclass(frozen=True)
class CheckedShard:
    """What one tar holds, and every flaw in it."""

    path: Path
    bytes: int
    samples: int
    members: dict[str, int]
    indexed: bool
    fingerprint: str
    key_hashes: NDArray[np.uint64]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ShardCheck:
    """The check of one shard; travels to each process once."""

    captions: tuple[str, ...] | None
    """Fields to look in; None for those that a run would choose, none of them where no caption is wanted."""
    decode: bool
    index_folder: Path | None

    def __call__(self, tar: Path) -> CheckedShard:
        found = Findings(str(tar))
        size = tar.stat().st_size
        fresh = _walk(tar, found)
        stored = _stored(tar, size, self.index_folder, found)
        index = stored or fresh
        if index is None:
            return CheckedShard(tar, size, 0, {}, False, "", np.empty(0, np.uint64), tuple(found.found))
        bad = _unreadable(tar, stored, fresh, found) if stored is not None else set()
        # Widths and heights are those of the walk, which an index of an earlier version does not have.
        named = _pictures(fresh if fresh is not None and fresh.fingerprint == index.fingerprint else index, found)
        with ShardReader(tar, index) as reader:
            self._samples(reader, bad, named, found)
        counts = index.extension_counts()
        facts = (index.num_samples, counts, stored is not None, index.fingerprint, key_hashes(index))
        return CheckedShard(tar, size, *facts, tuple(found.found))

    def _samples(self, reader: ShardReader, bad: set[int], named: set[int], found: Findings) -> None:
        """What can only be told by reading: captions, and with `decode` the pictures of those that are not `named` yet."""
        rows = [row for row in range(reader.index.num_samples) if row not in bad]
        if self.captions != ():
            self._captions(reader, rows, found)
        if self.decode:
            found.samples(
                "picture cannot be decoded", "lost", _undecodable(reader, [row for row in rows if row not in named])
            )

    def _captions(self, reader: ShardReader, rows: Sequence[int], found: Findings) -> None:
        index = reader.index
        fields = fields_of_shards([reader]) if self.captions is None else self.captions
        without_caption = set(index.samples_without(members_of(fields)).tolist())
        if len(without_caption) == index.num_samples == index.extension_counts().get("cls"):
            found.whole("no captions but class labels: data to score on", "note", count=index.num_samples)
        else:
            names = [(index.key(row), "has " + ", ".join(index.members(row))) for row in sorted(without_caption)]
            sought = fields if self.captions else dict.fromkeys((*CAPTION_EXTENSIONS, *fields))
            found.samples(f"no caption ({', '.join(sought)})", "lost", names)
        captioned = [row for row in rows if row not in without_caption]
        found_captions: dict[str, list[Row]] = {}
        for row in captioned:
            problem = _caption_problem(reader, row, fields)
            if problem:
                found_captions.setdefault(problem[0], []).append((index.key(row), problem[1]))
        for kind, names in sorted(found_captions.items()):
            found.samples(kind, "lost", names)


def _caption_problem(reader: ShardReader, row: int, fields: Sequence[str]) -> Row | None:
    sample: dict[str, bytes] = {}
    try:
        sample = reader.read(row, members_of(fields))
        captions_of(dict(sample), fields)
    except BadSampleError as error:
        return _kind_of_caption(sample, str(error))
    return None


def key_hashes(index: ShardIndex) -> NDArray[np.uint64]:
    """The XXH3-64 of every key."""
    keys, ends = index.columns["key_bytes"].tobytes(), index.columns["key_offset"].tolist()
    found = (xxhash.xxh3_64_intdigest(keys[start:end]) for start, end in zip(ends, ends[1:], strict=False))
    return np.fromiter(found, np.uint64, index.num_samples)


def _kind_of_caption(sample: dict[str, bytes], message: str) -> Row:
    for member, payload in sample.items():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            return "caption is not UTF-8", f"{member}: {error}"
    if "json" in sample and not _is_json(sample["json"]):
        return "json cannot be read", message
    return ("caption is empty", "") if sample else ("caption cannot be read", message)


def _is_json(payload: bytes) -> bool:
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return True


def _undecodable(reader: ShardReader, rows: Iterable[int]) -> Iterator[Row]:
    for row in rows:
        try:
            members = reader.read(row, IMAGE_EXTENSIONS)
        except BadSampleError as error:
            yield reader.index.key(row), str(error)
            continue
        chosen = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), b"")
        if look_at(chosen).format not in READABLE or too_large(chosen):  # told from the header already
            continue
        problem = undecodable(chosen)
        if problem:
            yield reader.index.key(row), problem[1]


def _walk(tar: Path, found: Findings) -> ShardIndex | None:
    """An index of what stands in the tar now: of all of it, or of what is whole where it is damaged."""
    try:
        return build_index(tar)
    except UserError as error:
        found.whole("the tar is damaged or no tar", "refused", str(error).removeprefix(f"shard {tar}: "))
    try:
        rest = build_index(tar, salvage=True)
    except UserError:
        return None
    lost = rest.salvage
    if lost is not None:
        ranges = [(f"bytes {start} to {end}", reason) for start, end, reason in lost.ranges]
        found.samples("bytes that are lost", "lost", ranges)
        found.samples("sample is not whole", "lost", lost.quarantined)
    return rest


def _stored(tar: Path, size: int, folder: Path | None, found: Findings) -> ShardIndex | None:
    """The index that a run would use; None where it has none or would refuse it."""
    path = index_path(tar, folder)
    if not path.is_file():
        found.whole("no index yet", "note", f"make it with `mmclip shards index {tar}`")
        return None
    try:
        stored = load_index(path)
        problem = stored.first_problem()
    except UserError as error:
        stored, problem = None, str(error)
    if stored is None or problem:
        found.whole(
            "the index cannot be read", "refused", f"{problem}; make it again with `mmclip shards index --force {tar}`"
        )
        return None
    if stored.tar_size != size:
        found.whole(
            "the tar was changed after it was indexed",
            "refused",
            f"{size} bytes, the index expects {stored.tar_size}; fetch it again, or index it again with --force",
        )
        return None
    if stored.salvage is not None and stored.salvage.num_quarantined + stored.salvage.num_ranges:
        found.samples(
            "lost before it was indexed", "lost", stored.salvage.quarantined or [("", "bytes between samples")]
        )
    return stored


def _unreadable(tar: Path, stored: ShardIndex, fresh: ShardIndex | None, found: Findings) -> set[int]:
    """Samples whose bytes are no longer those that were indexed."""
    offsets = "member_offset"
    unchanged = fresh is not None and fresh.salvage is None and fresh.fingerprint == stored.fingerprint
    if unchanged and fresh is not None and np.array_equal(fresh.columns[offsets], stored.columns[offsets]):
        return set()
    bad: dict[int, Row] = {}
    with ShardReader(tar, stored) as reader:
        for row in range(stored.num_samples):
            try:
                reader.read(row)
            except BadSampleError as error:
                bad[row] = stored.key(row), str(error).rpartition(": ")[2]
    found.samples("bytes are not those that were indexed", "lost", bad.values())
    return set(bad)


def _pictures(index: ShardIndex, found: Findings) -> set[int]:
    """What headers tell: missing pictures, wrong names, sizes beyond the caps; the samples that are lost by it."""
    columns = index.columns
    kind, width, height = (
        columns[name].astype(np.int64) for name in ("sample_format", "sample_width", "sample_height")
    )
    missing = np.zeros(index.num_samples, bool)
    missing[index.samples_without(IMAGE_EXTENSIONS)] = True
    readable = np.isin(kind, [FORMATS.index(name) for name in READABLE])
    big, narrow = width * height > MAX_PIXELS, np.maximum(width, height) > MAX_ASPECT * np.minimum(width, height)
    short = _Namer(index, found)
    short.say(missing, "no picture", "lost", lambda row: "has " + ", ".join(index.members(row)))
    if index.version > 1:
        what = lambda row: f"{index.key(row)} holds {FORMATS[kind[row]]}"  # noqa: E731
        short.say(
            ~missing & ~readable, "not a JPEG, PNG or WebP picture", "lost", lambda row: what(row).split(" ", 1)[1]
        )
    size = lambda row: f"{width[row]} x {height[row]}"  # noqa: E731
    short.say(big, f"more than {MAX_PIXELS:,} pixels", "lost", size)
    short.say(narrow & ~big, f"an aspect beyond {MAX_ASPECT} to 1", "lost", size)
    heavy = _heavy(index)
    short.say(heavy, f"picture of more than {MAX_BYTES >> 20} MiB", "lost", lambda row: "")
    wrong = [
        (f"{count} of {what}", "") for what, count in index.mislabelled.items() if not what.endswith(("unknown", "gif"))
    ]
    if wrong:
        total = sum(count for what, count in index.mislabelled.items() if not what.endswith(("unknown", "gif")))
        found.found.append(Finding(found.shard, "extension says another format", "note", total, tuple(wrong)))
    if index.ignored_members:
        names = tuple((name, "") for name in index.ignored_names)
        found.found.append(Finding(found.shard, "member belongs to no sample", "note", index.ignored_members, names))
    return set(np.flatnonzero(missing | big | narrow | heavy | (~readable & (index.version > 1))).tolist())


@dataclass(frozen=True)
class _Namer:
    """Turns a mask over samples into a finding."""

    index: ShardIndex
    found: Findings

    def say(self, mask: NDArray[np.bool_], kind: str, effect: Effect, detail: Callable[[int], str]) -> None:
        rows = np.flatnonzero(mask).tolist()
        self.found.samples(kind, effect, [(self.index.key(row), detail(row)) for row in rows])


def _heavy(index: ShardIndex) -> NDArray[np.bool_]:
    """Samples whose picture has more bytes than are decoded."""
    columns = index.columns
    wanted = [number for number, extension in enumerate(index.extensions) if extension in IMAGE_EXTENSIONS]
    rows = np.isin(columns["member_extension"], wanted) & (columns["member_size"] > MAX_BYTES)
    heavy = np.zeros(index.num_samples, bool)
    heavy[columns["member_sample"][rows]] = True
    return heavy
