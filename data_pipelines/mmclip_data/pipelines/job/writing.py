"""Writes the samples that a job keeps into shards, one shard after another, so that it can be stopped at any byte."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmclip.errors import UserError
from mmclip_data.pipelines.job.journal import DROPPED, JOURNAL, Journal
from mmclip_data.pipelines.job.outcome import Dropped, Outcome
from mmclip_data.pipelines.job.report import Tally
from mmclip_data.pipelines.job.workers import Track, in_order, quiet, worker_count
from mmclip_data.pipelines.layout import write_lines
from mmclip_data.pipelines.report import OWN_FILES
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.index import index_path, load_index
from mmclip_data.shards.write import ShardWriter
from mmclip_data.stores.urls import refuse_url

Work = Callable[[Any], list[Outcome]]
ITEMS_WORTH_A_PROCESS = 64
PLAIN, PADDED = "{}.tar", "{:05d}.tar"
"""CLIP_benchmark's names, and those that sort."""


@dataclass(frozen=True)
class Job:
    """What decides every byte of the output: the same job goes on where it was stopped, another one is refused."""

    name: str
    settings: dict[str, Any]
    source: str
    """Fingerprint of what is read, by content."""


@runtime_checkable
class Items(Protocol):
    """What a job works through, in pieces that are cheap to send to another process."""

    def __len__(self) -> int: ...

    def pieces(self, start: int) -> Iterator[Any]:
        """Pieces that together hold the items from `start` on; the work answers each with one outcome an item."""
        ...


@dataclass(frozen=True)
class Written:
    """The shards of a folder, and what did not get into them."""

    folder: Path
    paths: list[Path]
    num_samples: int
    dropped: Tally
    resumed_at: int = 0
    """Shards that an earlier run had finished."""
    was_done: bool = False
    files: list[Path] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What a person should know about how it was done."""
        if self.was_done:
            return ["this job was finished before: nothing was written; --overwrite makes it anew"]
        return [f"went on behind {self.resumed_at} finished shards"] if self.resumed_at else []


def write_shards(
    job: Job,
    items: Items,
    work: Work,
    folder: Path,
    *,
    pattern: str = PLAIN,
    samples_per_shard: int = 10_000,
    workers: int | None = None,
    overwrite: bool = False,
    track: Track = quiet,
) -> Written:
    """Write every sample that `work` keeps of `items`, in their order; the number of workers changes no byte.

    A folder in which the same job was stopped is completed. Beside the tars stand their indexes, `sizes.json`,
    `dropped.jsonl` and the journal, and `nshards.txt` where the names are CLIP_benchmark's.

    Raises:
        UserError: nothing is kept, a key comes twice in a shard, or the folder holds something else.
    """
    _refuse_bad_number(samples_per_shard)
    _refuse_strangers(folder)
    journal = Journal(folder, {"job": job.name, "settings": job.settings, "source": job.source})
    try:
        _take_up(journal, overwrite)
        tally = Tally()
        tally.add(journal.dropped())
        before, was_done = len(journal.shards), journal.done is not None
        if not was_done:
            start = journal.shards[-1]["items"] if journal.shards else 0
            # A process costs seconds to start: none for what this one does meanwhile.
            useful = -(-(len(items) - start) // ITEMS_WORTH_A_PROCESS)
            pieces = in_order(work, items.pieces(start), min(worker_count(workers), useful))
            outcomes = (outcome for piece in pieces for outcome in piece)
            writing = _Writing(journal, tally, pattern, samples_per_shard, start)
            writing.run(track(outcomes, len(items) - start, job.name))
        return _finished(journal, tally, pattern, before, was_done)
    finally:
        journal.close()


class _Writing:
    """The loop over outcomes: a shard in progress, and what was dropped since the last one was finished."""

    def __init__(self, journal: Journal, tally: Tally, pattern: str, samples_per_shard: int, start: int) -> None:
        self.journal = journal
        self.tally = tally
        self.pattern = pattern
        self.samples_per_shard = samples_per_shard
        self.items = start
        self.kept = sum(shard["samples"] for shard in journal.shards)
        self.dropped: list[Dropped] = []

    def run(self, outcomes: Iterator[Outcome]) -> None:
        while self._fill_one(outcomes):
            pass
        if not self.journal.shards:
            raise UserError(
                f"{self.journal.folder}: no sample is left to write; {'; '.join(self.tally.lines()) or 'there is none'}"
            )
        facts = {"samples": self.kept, "dropped": self.tally.counts}
        self.journal.finish(facts, self.dropped)

    def _fill_one(self, outcomes: Iterator[Outcome]) -> bool:
        """Write the next shard; False when nothing was left for it."""
        name = self.pattern.format(len(self.journal.shards))
        with ShardWriter(self.journal.folder, name, samples_per_shard=None) as writer:
            for outcome in outcomes:
                self.items += 1
                if isinstance(outcome, Dropped):
                    self.dropped.append(outcome)
                    self.tally.add([outcome])
                    continue
                writer.add(outcome.key if outcome.key is not None else f"s{self.kept:07d}", outcome.members)
                self.kept += 1
                if writer.num_samples == self.samples_per_shard:
                    break
        if not writer.num_samples:
            return False
        index = load_index(index_path(writer.paths[0]))
        self.journal.add_shard(
            {
                "shard": name,
                "samples": writer.num_samples,
                "bytes": index.tar_size,
                "fingerprint": index.fingerprint,
                "items": self.items,
            },
            self.dropped,
        )
        self.dropped = []
        return writer.num_samples == self.samples_per_shard


def _refuse_bad_number(samples_per_shard: int) -> None:
    if samples_per_shard < 1:
        raise UserError(f"samples_per_shard={samples_per_shard}: expected at least 1")


def _refuse_strangers(folder: Path) -> None:
    """A folder that holds anything which no job wrote is not ours to fill."""
    refuse_url("output", folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file, expected a folder")
    if folder.is_dir() and not (folder / JOURNAL).exists() and any(folder.iterdir()):
        raise UserError(f"output={folder} is not empty; name a new folder")


def _take_up(journal: Journal, overwrite: bool) -> None:
    """Go on with the same job, or begin; files of a shard that a kill left unfinished are removed.

    Raises:
        UserError: the folder holds shards of another job, and `overwrite` is not set.
    """
    other = journal.resume()
    if other and not overwrite and any(journal.folder.glob("*.tar")):
        raise UserError(
            f"output={journal.folder} holds the shards of another job ({other}); name a new folder, or set overwrite "
            "to replace them"
        )
    if other or overwrite:
        for pattern in OWN_FILES:
            for path in journal.folder.glob(pattern):
                if path.name not in (JOURNAL, DROPPED):
                    path.unlink()
        journal.restart()
    for path in journal.folder.glob(".*.tar*.partial"):
        path.unlink()


def _finished(journal: Journal, tally: Tally, pattern: str, before: int, was_done: bool) -> Written:
    folder = journal.folder
    paths = [folder / shard["shard"] for shard in journal.shards]
    gone = [path for path in paths if not path.is_file()]
    if gone:
        raise UserError(f"{gone[0]}: finished before, but it is gone; run the job again with overwrite")
    with atomic_file(folder / "sizes.json") as handle:
        sizes = {shard["shard"]: shard["samples"] for shard in journal.shards}
        handle.write(json.dumps(sizes, indent=1).encode() + b"\n")
    files = [*paths, *map(index_path, paths), folder / "sizes.json"]
    if pattern == PLAIN:
        files.append(write_lines(folder / "nshards.txt", [str(len(paths))]))
    return Written(folder, paths, sum(shard["samples"] for shard in journal.shards), tally, before, was_done, files)


def settings_of(config: object, without: Sequence[str]) -> dict[str, Any]:
    """The fields of a job's configuration that decide its output, as JSON."""
    from dataclasses import fields, is_dataclass

    assert is_dataclass(config)
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    unimportant = {"output", "workers", "overwrite", *without}
    return json.loads(
        json.dumps({name: value for name, value in values.items() if name not in unimportant}, default=str)
    )
