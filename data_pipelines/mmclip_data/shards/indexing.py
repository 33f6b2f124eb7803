"""Many shards' indexes at once: in several processes, each shard by itself, and nothing twice."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.shards.columns import FORMAT_VERSION, ShardIndex
from mmclip_data.shards.index import index_path, load_index, write_index
from mmclip_data.shards.walk import build_index


@dataclass(frozen=True)
class Indexed:
    """What became of one shard: its index, new or kept, or the error."""

    tar: Path
    index: ShardIndex | None = None
    kept: bool = False
    error: str | None = None


def index_shards(
    tars: Sequence[Path],
    index_folder: Path | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    salvage: bool = False,
) -> Iterator[Indexed]:
    """Write the index of each shard, in the order of `tars` whatever the number of processes.

    A shard whose index is complete, newer than the tar and of its size is left alone unless `force`, so that a run that
    was stopped goes on where it was. An error concerns its shard alone; the others are indexed.
    """
    work = partial(index_shard, index_folder=index_folder, force=force, salvage=salvage)
    if workers <= 1 or len(tars) < 2:
        yield from map(work, tars)
        return
    # Not by fork: the parent may have threads (a progress bar, numpy), whose locks a fork would copy as they are.
    # An interrupt is the parent's affair: a process finishes its shard, and the queue is cancelled.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(min(workers, len(tars)), get_context("spawn"), signal.signal, ignore)
    try:
        yield from pool.map(work, tars)
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that indexed was killed, perhaps for its memory; run the same again with fewer than {workers} "
            "workers: what is done is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def index_shard(tar: Path, index_folder: Path | None, force: bool, salvage: bool) -> Indexed:
    """Write the index of one shard, or keep the one that it has.

    Raises:
        OSError: the index cannot be written.
    """
    target = index_path(tar, index_folder)
    try:
        if not force:
            if is_current(tar, target):
                return Indexed(tar, load_index(target), kept=True)
            if salvage:
                _refuse_to_replace(tar, target)
        index = build_index(tar, salvage)
    except (UserError, OSError) as error:
        return Indexed(tar, error=str(error))
    # An index that cannot be written is an error of the disk, which the next shard would meet too.
    target.parent.mkdir(parents=True, exist_ok=True)
    write_index(index, target)
    return Indexed(tar, load_index(target))


def is_current(tar: Path, target: Path) -> bool:
    """Whether the index at `target` is whole, of the present version, newer than `tar` and of its size."""
    try:
        facts = tar.stat()
        if target.stat().st_mtime_ns < facts.st_mtime_ns:
            return False
        index = load_index(target)
        return index.version == FORMAT_VERSION and index.tar_size == facts.st_size and index.first_problem() is None
    except (FileNotFoundError, UserError):
        return False


def _refuse_to_replace(tar: Path, target: Path) -> None:
    """An index from before the damage knows every sample by name and checksum; one of what is left would know less."""
    try:
        index = load_index(target)
    except UserError:
        return
    if index.salvage is None and index.first_problem() is None and index.tar_size != tar.stat().st_size:
        raise UserError(
            f"shard {tar}: {target} was made when the shard was whole ({index.num_samples} samples, {index.tar_size} "
            'bytes); data.source.on_damage = "quarantine" reads every intact sample by it and names the others; '
            "to replace it by what can be found now, add --force"
        )
