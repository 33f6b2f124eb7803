"""The index of a shard: where every member lies, how long it is, and its XXH3-64 checksum.

`NAME.tar.mmidx` is a safetensors file. One metadata entry, `mmidx`, holds a JSON header; the tensors are the
columns below. One entry only, because safetensors writes several in an order that changes from run to run.
"""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file

FORMAT_VERSION = 1
METADATA_KEY = "mmidx"
SUFFIX = ".mmidx"

COLUMNS: dict[str, type[np.unsignedinteger]] = {
    "member_sample": np.uint32,  # one row a member, sorted by sample, then by extension
    "member_extension": np.uint16,  # position in the header's sorted list of extensions
    "member_offset": np.uint64,  # of the first byte of the payload in the tar
    "member_size": np.uint64,
    "member_xxh3": np.uint64,
    "sample_first_member": np.uint64,  # one row a sample, and one more at the end
    "key_offset": np.uint64,  # one row a sample, and one more at the end
    "key_bytes": np.uint8,  # all keys in UTF-8, end to end
}
LAYOUT_COLUMNS = {"member_offset"}  # say where the bytes lie, not what they are


class Member(NamedTuple):
    """One file of a sample: the payload's first byte in the tar, its length in bytes, its XXH3-64."""

    offset: int
    size: int
    checksum: int


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Random access to the samples of one shard; samples stand in the order of their first member in the tar."""

    tar_size: int
    extensions: tuple[str, ...]
    columns: dict[str, np.ndarray] = field(repr=False)
    ignored_members: int = 0
    ignored_names: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        return len(self.columns["key_offset"]) - 1

    @property
    def num_members(self) -> int:
        return len(self.columns["member_offset"])

    def key(self, sample: int) -> str:
        """The WebDataset key of the sample: the members' path up to the first dot of the file name."""
        start, end = self._bounds("key_offset", sample)
        return self.columns["key_bytes"][start:end].tobytes().decode(errors="backslashreplace")

    def members(self, sample: int) -> dict[str, Member]:
        """The sample's members by lower-cased extension, in alphabetical order."""
        start, end = self._bounds("sample_first_member", sample)
        names = ("member_extension", "member_offset", "member_size", "member_xxh3")
        rows = zip(*(self.columns[name][start:end].tolist() for name in names), strict=True)
        return {self.extensions[extension]: Member(*place) for extension, *place in rows}

    def extension_counts(self) -> dict[str, int]:
        """How many samples have a member of each extension."""
        counts = np.bincount(self.columns["member_extension"], minlength=len(self.extensions))
        return dict(zip(self.extensions, counts.tolist(), strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that name the samples (keys, extensions, sizes, checksums, in order), wherever they lie."""
        digest = xxhash.xxh3_128(json.dumps(self.extensions).encode())
        for name in COLUMNS:
            if name not in LAYOUT_COLUMNS:
                digest.update(name.encode() + xxhash.xxh3_128_digest(self.columns[name].tobytes()))
        return digest.hexdigest()

    def _bounds(self, column: str, sample: int) -> tuple[int, int]:
        if not 0 <= sample < self.num_samples:
            raise IndexError(f"sample {sample} of a shard with {self.num_samples} samples")
        start, end = self.columns[column][sample : sample + 2].tolist()
        return start, end


def index_path(tar: Path, index_dir: Path | None = None) -> Path:
    """Where the index of `tar` lives: beside it, or in `index_dir`.

    There the name carries a hash of the tar's folder, so that `a/0.tar` and `b/0.tar` do not share an index.
    """
    if index_dir is None:
        return tar.with_name(tar.name + SUFFIX)
    place = xxhash.xxh3_64_hexdigest(os.fsencode(tar.resolve().parent))
    return index_dir / f"{tar.name}.{place}{SUFFIX}"


def write_index(index: ShardIndex, path: Path) -> None:
    """Write `index` to `path` atomically; equal indexes give equal bytes."""
    header = {
        "version": FORMAT_VERSION,
        "tar_size": index.tar_size,
        "num_samples": index.num_samples,
        "extensions": index.extensions,
        "ignored_members": index.ignored_members,
        "ignored_names": index.ignored_names,
    }
    with atomic_file(path) as handle:
        handle.write(save(index.columns, metadata={METADATA_KEY: json.dumps(header, sort_keys=True)}))


def load_index(path: Path) -> ShardIndex:
    """Read and check an index file; columns it has beyond ours are ignored.

    Raises:
        UserError: the file is missing, damaged, of a later version, or points outside its tar.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such index; make it with `mmclip shards index {_tar_of(path)}`")
    try:
        with safe_open(path, framework="numpy") as handle:
            header = json.loads((handle.metadata() or {})[METADATA_KEY])
            columns = {name: handle.get_tensor(name) for name in COLUMNS}
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, f"not a readable index ({type(error).__name__}: {error})") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise _damaged(path, f"format version {version}, this mmclip reads version {FORMAT_VERSION}")
    try:
        index = ShardIndex(
            tar_size=int(header["tar_size"]),
            extensions=tuple(map(str, header["extensions"])),
            columns=columns,
            ignored_members=int(header["ignored_members"]),
            ignored_names=tuple(map(str, header["ignored_names"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"header {type(error).__name__}: {error}") from error
    problem = _first_problem(index, header.get("num_samples"))
    if problem:
        raise _damaged(path, problem)
    return index


def open_index(tar: Path, index_dir: Path | None = None) -> ShardIndex:
    """Load the index of `tar` and check that it belongs to a tar of this size.

    Raises:
        UserError: there is no such tar, no index, or the tar was cut or rewritten since it was indexed.
    """
    if not tar.is_file():
        raise UserError(f"shard {tar}: no such file")
    path = index_path(tar, index_dir)
    if not path.is_file():
        raise UserError(f"shard {tar} has no index at {path}; make it with `mmclip shards index {tar}`")
    index = load_index(path)
    size = tar.stat().st_size
    if size != index.tar_size:
        change = "cut short" if size < index.tar_size else "rewritten"
        raise UserError(
            f"shard {tar}: {size} bytes, its index {path} expects {index.tar_size}: "
            f"it was {change} after it was indexed; "
            f"fetch the shard again, or, if it was changed on purpose, run `mmclip shards index {tar}`"
        )
    return index


def _first_problem(index: ShardIndex, num_samples: object) -> str | None:
    """What makes the columns unusable, or None; every later access may then rely on them."""
    columns = index.columns
    for name, dtype in COLUMNS.items():
        if columns[name].dtype != dtype or columns[name].ndim != 1:
            found = f"{columns[name].dtype}{list(columns[name].shape)}"
            return f"column {name} is {found}, expected a vector of {np.dtype(dtype)}"
    if not 0 <= index.tar_size < 1 << 63:
        return f"tar_size={index.tar_size} is not a file size"
    members = index.num_members
    if (
        num_samples != index.num_samples
        or index.num_samples < 1
        or len(columns["sample_first_member"]) != index.num_samples + 1
    ):
        return f"header says {num_samples} samples, the columns hold {index.num_samples}"
    if any(len(columns[name]) != members for name in COLUMNS if name.startswith("member_")):
        return "the member columns differ in length"
    if columns["member_extension"].max(initial=0) >= max(len(index.extensions), 1):
        return "a member's extension is not in the header's list"
    size, offset = columns["member_size"], columns["member_offset"]
    if np.any(offset > index.tar_size) or np.any(size > index.tar_size - offset):
        return f"a member ends past the tar's {index.tar_size} bytes"
    for name, end in (("sample_first_member", members), ("key_offset", len(columns["key_bytes"]))):
        steps = columns[name]
        if steps[0] != 0 or steps[-1] != end or np.any(steps[1:] <= steps[:-1]):
            return f"column {name} does not rise from 0 to {end}"
    return None


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"index {path}: {problem}; make it again with `mmclip shards index {_tar_of(path)}`")


def _tar_of(path: Path) -> str:
    return str(path)[: -len(SUFFIX)] if path.name.endswith(f".tar{SUFFIX}") else "SHARDS"
