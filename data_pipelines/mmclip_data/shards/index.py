"""`NAME.tar.mmidx`: an index as a safetensors file that is mapped, not read.

One metadata entry, `mmidx`, holds a JSON header; the tensors are the columns. One entry only, because safetensors
writes several in an order that changes from run to run. The safetensors package copies every tensor it hands out, so
its layout (length, JSON, bytes) is read here.
"""

import json
import mmap
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from safetensors.numpy import save

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.columns import (
    COLUMNS,
    FACT_COLUMNS,
    FORMAT_VERSION,
    IDENTITY_COLUMNS,
    MEMBER_COLUMNS,
    Rows,
    Salvage,
    ShardIndex,
    single_rows,
)
from mmclip_data.shards.open_files import OpenFiles

METADATA_KEY = "mmidx"
SUFFIX = ".mmidx"
MAX_HEADER_BYTES = 8 << 20
TYPES = {"U8": np.dtype(np.uint8), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8")}
MAPPED = OpenFiles()

OnDamage = Literal["refuse", "quarantine"]
"""What becomes of a shard whose size is not the one that was indexed: an error, or a quarantine of what cannot be read."""


class MappedColumns:
    """The columns of an index file, mapped at first use; few indexes are mapped at a time, and the rest cost nothing."""

    def __init__(self, path: Path, identity: tuple[int, ...], layout: dict[str, tuple[np.dtype, int, int]]) -> None:
        self.path = path
        self._identity = identity
        self._layout = layout
        self._columns: dict[str, np.ndarray] | None = None
        self._rows: Rows | None = None

    @property
    def rows(self) -> Rows:
        """For those who want a few single rows."""
        rows = self._rows  # another thread may release them at any moment
        if rows is None:
            self._rows = rows = single_rows(self)
        return rows

    def __getitem__(self, name: str) -> np.ndarray:
        return (self._columns or self._map())[name]

    def lengths(self) -> dict[str, int]:
        """Rows of each column, without mapping them."""
        return {name: count for name, (_, count, _) in self._layout.items()}

    def release(self) -> None:
        self._columns = self._rows = None

    def _map(self) -> dict[str, np.ndarray]:
        with self.path.open("rb") as handle:
            if _identity(handle.fileno()) != self._identity:
                raise UserError(f"index {self.path}: it was replaced while it was in use; start again")
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        columns = {
            name: np.frombuffer(mapped, dtype, count, offset) for name, (dtype, count, offset) in self._layout.items()
        }
        self._columns = columns
        MAPPED.opened(self)
        return columns

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": None, "_rows": None}


def _identity(descriptor: int) -> tuple[int, ...]:
    facts = os.fstat(descriptor)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


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
        "num_members": index.num_members,
        "extensions": index.extensions,
        "fingerprint": index.computed_fingerprint,
        "checksum": index.checksum,
        "ignored_members": index.ignored_members,
        "ignored_names": index.ignored_names,
        "mislabelled": dict(index.mislabelled),
        "salvage": asdict(index.salvage) if index.salvage else None,
    }
    columns = {name: np.ascontiguousarray(index.columns[name]) for name in COLUMNS}
    with atomic_file(path) as handle:
        handle.write(save(columns, metadata={METADATA_KEY: json.dumps(header, sort_keys=True)}))


def load_index(path: Path) -> ShardIndex:
    """Open an index file: its header is read and checked, its columns stay on disk until they are used.

    Columns it has beyond ours are ignored. Version 1 is read too; it knows nothing of widths, heights and captions.

    Raises:
        UserError: the file is missing, cut, of another version, or its parts do not fit each other.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such index; make it with `mmclip shards index {_tar_of(path)}`")
    try:
        with path.open("rb") as handle:
            identity = _identity(handle.fileno())
            header, layout = _read_layout(handle.read(8), handle, identity[1])
        return _index(header, MappedColumns(path, identity, layout))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        problem = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"index {path}: not a readable index ({problem}); make it again with `mmclip shards index {_tar_of(path)}`"
        ) from error


def _read_layout(start: bytes, handle: Any, size: int) -> tuple[dict[str, Any], dict[str, tuple[np.dtype, int, int]]]:
    """Our header, and for each column its type, its rows and its first byte in the file."""
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"{size} bytes that do not start as a safetensors file does")
    tensors = json.loads(handle.read(length))
    header = json.loads(tensors["__metadata__"][METADATA_KEY])
    first, ends, layout = 8 + length, [0], {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        begin, end = (int(place) for place in tensor["data_offsets"])
        ends.append(end)
        if name not in COLUMNS:
            continue
        (count,) = (int(rows) for rows in tensor["shape"])
        dtype = TYPES[tensor["dtype"]]
        if dtype != COLUMNS[name] or begin < 0 or count < 0 or end - begin != count * dtype.itemsize:
            raise ValueError(f"column {name} is {tensor}, expected a vector of {np.dtype(COLUMNS[name])}")
        layout[name] = (dtype, count, first + begin)
    if first + max(ends) != size:
        raise ValueError(f"{size} bytes, its columns end at {first + max(ends)}")
    return header, layout


def _index(header: dict[str, Any], columns: MappedColumns) -> ShardIndex:
    """The index of a header and columns that fit each other.

    Raises:
        ValueError, TypeError, KeyError: they do not.
    """
    version, rows = header["version"], columns.lengths()
    if version not in (1, FORMAT_VERSION):
        raise ValueError(f"format version {version}, this mmclip reads versions 1 and {FORMAT_VERSION}")
    members, samples, tar_size = rows["member_offset"], rows["key_offset"] - 1, int(header["tar_size"])
    missing = (IDENTITY_COLUMNS if version == 1 else COLUMNS).keys() - rows.keys()
    if missing:
        raise KeyError(f"column {sorted(missing)[0]}")
    expected = dict.fromkeys(MEMBER_COLUMNS, members) | dict.fromkeys(FACT_COLUMNS, samples)
    expected |= {"sample_first_member": samples + 1, "key_bytes": rows["key_bytes"], "key_offset": samples + 1}
    if int(header["num_samples"]) != samples or samples < 1 or int(header.get("num_members", members)) != members:
        raise ValueError(f"header says {header['num_samples']} samples, the columns hold {samples}")
    wrong = [name for name, count in rows.items() if count != expected[name]]
    if wrong:
        raise ValueError(f"column {wrong[0]} has {rows[wrong[0]]} rows, expected {expected[wrong[0]]}")
    if not 0 <= tar_size < 1 << 63:
        raise ValueError(f"tar_size={tar_size} is not a file size")
    zeros = {name: np.broadcast_to(dtype(0), samples) for name, dtype in FACT_COLUMNS.items()}
    return ShardIndex(
        tar_size=tar_size,
        num_samples=samples,
        num_members=members,
        extensions=tuple(map(str, header["extensions"])),
        columns=columns if version > 1 else _Joined(columns, zeros),
        ignored_members=int(header["ignored_members"]),
        ignored_names=tuple(map(str, header["ignored_names"])),
        mislabelled={str(name): int(count) for name, count in header.get("mislabelled", {}).items()},
        salvage=_salvage(header["salvage"]) if header.get("salvage") else None,
        stored_fingerprint=str(header["fingerprint"]) if version > 1 else None,
        stored_checksum=str(header["checksum"]) if version > 1 else None,
        version=version,
    )


def _salvage(stored: dict[str, Any]) -> Salvage:
    return Salvage(
        lost_bytes=int(stored["lost_bytes"]),
        num_ranges=int(stored["num_ranges"]),
        ranges=tuple((int(start), int(end), str(reason)) for start, end, reason in stored["ranges"]),
        num_quarantined=int(stored["num_quarantined"]),
        quarantined=tuple((str(key), str(reason)) for key, reason in stored["quarantined"]),
    )


def open_index(tar: Path, index_dir: Path | None = None, on_damage: OnDamage = "refuse") -> ShardIndex:
    """Load the index of `tar` and check that it belongs to a tar of this size.

    With `on_damage="quarantine"` a tar of another size is opened too: every sample that is still where it was is read,
    and each of the others is a `BadSampleError` at its reading, so that none is lost without a name.

    Raises:
        UserError: there is no such tar, no index, or the tar was cut or rewritten since it was indexed.
    """
    if not tar.is_file():
        raise UserError(f"shard {tar}: no such file")
    path = index_path(tar, index_dir)
    size = tar.stat().st_size
    if not size and on_damage == "refuse":
        raise UserError(f"shard {tar}: 0 bytes, expected a tar; fetch or write it again, or leave it out of the shards")
    if not path.is_file():
        raise UserError(f"shard {tar} has no index at {path}; make it with `mmclip shards index {tar}`")
    index = load_index(path)
    if size != index.tar_size and on_damage == "refuse":
        change = "cut short" if size < index.tar_size else "rewritten"
        raise UserError(
            f"shard {tar}: {size} bytes, its index {path} expects {index.tar_size}: "
            f"it was {change} after it was indexed; "
            f"fetch the shard again, or, if it was changed on purpose, run `mmclip shards index {tar}`; "
            'data.source.on_damage = "quarantine" reads the samples that are left and names the others'
        )
    return index


def _tar_of(path: Path) -> str:
    return str(path)[: -len(SUFFIX)] if path.name.endswith(f".tar{SUFFIX}") else "SHARDS"


class _Joined:
    """Columns on disk, and constants for those that the file is too old to have."""

    def __init__(self, mapped: MappedColumns, constants: dict[str, np.ndarray]) -> None:
        self.path = mapped.path
        self._mapped = mapped
        self._constants = constants

    def __getitem__(self, name: str) -> np.ndarray:
        return self._constants[name] if name in self._constants else self._mapped[name]
