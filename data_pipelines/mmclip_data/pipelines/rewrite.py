"""Shards to new shards: what repacking, filtering and deduplication share. The old shards are never changed."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip_data.pipelines.job import Dropped, Job, JobReport, Track, Work, write_shards
from mmclip_data.pipelines.job.workers import worker_count
from mmclip_data.pipelines.job.writing import PADDED, settings_of
from mmclip_data.shards.columns import FORMAT_VERSION, ShardIndex
from mmclip_data.shards.expand import expand_shards
from mmclip_data.shards.index import index_path, open_index
from mmclip_data.shards.indexing import index_shards
from mmclip_data.shards.losses import lost_before
from mmclip_data.shards.names import distinct_names
from mmclip_data.shards.read import ShardReader

ROWS_IN_PIECE = 64
MAX_ERRORS = 10
CHANGED = "bytes are not those that were indexed"
Rows = NDArray[np.int64]
"""Samples numbered through all input shards, in their order."""


@config
class RewriteConfig:
    """What every job from shards to shards is told."""

    shards: tuple[str, ...]
    """Files, folders or patterns such as data/{000..127}.tar."""
    output: Path
    """Folder to write."""
    index_folder: Path | None = None
    """Where the indexes of `shards` stand, or are to be written, when not beside them."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    keys: Literal["keep", "number"] = "keep"
    """Keep the samples' keys, or number them anew where those of several shards are the same."""
    workers: int | None = None
    """Processes; default: one for each core. Changes no byte of the output."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


@dataclass(frozen=True)
class Inputs:
    """The samples of all input shards, numbered through; travels to each process once."""

    readers: tuple[ShardReader, ...]
    names: tuple[str, ...]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The number behind the last sample of each shard."""
        return np.cumsum([reader.index.num_samples for reader in self.readers])

    @property
    def indexes(self) -> list[ShardIndex]:
        return [reader.index for reader in self.readers]

    @property
    def fingerprint(self) -> str:
        """Of all samples, wherever the shards lie."""
        return xxhash.xxh3_128_hexdigest("".join(index.fingerprint for index in self.indexes).encode())

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, row: int) -> tuple[int, int]:
        """Shard, and row in it."""
        shard = int(np.searchsorted(self.ends, row, side="right"))
        return shard, row - (int(self.ends[shard - 1]) if shard else 0)

    def name(self, row: int) -> str:
        """`SHARD/KEY`."""
        shard, local = self.locate(row)
        return f"{self.names[shard]}/{self.readers[shard].index.key(local)}"

    def key(self, row: int) -> str:
        shard, local = self.locate(row)
        return self.readers[shard].index.key(local)

    def read(self, row: int, extensions: Collection[str] | None = None) -> dict[str, bytes] | Dropped:
        """The members, or why they cannot be had."""
        shard, local = self.locate(row)
        try:
            return self.readers[shard].read(local, extensions)
        except BadSampleError as error:
            return Dropped(self.name(row), CHANGED, str(error).rpartition(": ")[2])

    def column(self, name: str) -> NDArray[np.int64]:
        """A column of facts of the indexes, one entry a sample."""
        return np.concatenate([index.columns[name].astype(np.int64) for index in self.indexes])


@dataclass(frozen=True)
class InputRows:
    """Rows to work through, in pieces."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def pieces(self, start: int) -> Iterator[list[int]]:
        for first in range(start, len(self.rows), ROWS_IN_PIECE):
            yield self.rows[first : first + ROWS_IN_PIECE].tolist()


def open_inputs(config: RewriteConfig, track: Track) -> Inputs:
    """The input shards with their indexes; those that have none get one, beside them or in the index folder.

    Raises:
        UserError: nothing matches, the output lies among the inputs, or a shard is damaged.
    """
    tars = expand_shards(config.shards)
    output = config.output.resolve()
    inside = [tar for tar in tars if tar.resolve().parent == output]
    if inside:
        raise UserError(
            f"output={config.output} is the folder of {inside[0]}; name another one: old shards are kept as they are"
        )
    indexes = {tar: _index_of(tar, config.index_folder) for tar in tars}
    without = [tar for tar, index in indexes.items() if index is None]
    work = index_shards(without, config.index_folder, workers=worker_count(config.workers))
    damaged: list[str] = []
    for shard in track(work, len(without), "index"):
        indexes[shard.tar] = shard.index
        damaged += [shard.error] if shard.error else []
    if damaged:
        more = f"\n... and {len(damaged) - MAX_ERRORS} more shards" if damaged[MAX_ERRORS:] else ""
        raise UserError("\n".join(damaged[:MAX_ERRORS]) + more)
    readers = tuple(ShardReader(tar, index) for tar, index in indexes.items() if index is not None)
    return Inputs(readers, tuple(distinct_names([*map(str, tars)])))


def _index_of(tar: Path, folder: Path | None) -> ShardIndex | None:
    """The index that a shard has, whatever its age: every byte that is copied is compared with it.

    Raises:
        UserError: the shard was changed since it was indexed.
    """
    if not index_path(tar, folder).is_file():
        return None
    index = open_index(tar, folder)
    return index if index.version == FORMAT_VERSION else None


def rewrite(
    name: str, config: RewriteConfig, inputs: Inputs, rows: Rows, work: Work, track: Track, **facts: Any
) -> JobReport:
    """Write what `work` keeps of `rows`; `facts` are what decides the output beside the configuration."""
    if config.keys == "keep":
        _refuse_equal_keys(inputs, rows)
    paths = ("shards", "index_folder", "score", "device", "features")
    written = write_shards(
        Job(name, settings_of(config, paths) | facts, inputs.fingerprint),
        InputRows(rows),
        work,
        config.output,
        pattern=PADDED,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers,
        overwrite=config.overwrite,
        track=track,
    )
    counts = {"samples read": len(rows), "samples written": written.num_samples, "shards": len(written.paths)}
    return JobReport(
        config.output,
        counts,
        written.dropped,
        [*written.notes, *lost_before([*zip(inputs.names, inputs.indexes, strict=True)])],
    )


def _refuse_equal_keys(inputs: Inputs, rows: Rows) -> None:
    from mmclip_data.pipelines.check.shard import key_hashes

    hashes = np.concatenate([key_hashes(index) for index in inputs.indexes])[rows]
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if len(same):
        first, second = (inputs.name(int(rows[order[place]])) for place in (same[0], same[0] + 1))
        raise UserError(
            f"{first} and {second} have one key ({len(same)} keys come again), and new shards may hold both; number the "
            "samples anew with --keys number"
        )
