"""The first stages of the training loader: what the plan says, read in its order, with bad samples replaced."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from mmclip.batch import DataPosition
from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, integer
from mmclip_data.loading.plan import Plan
from mmclip_data.loading.sources import Source

SampleMap = Callable[[dict[str, Any]], dict[str, Any]]

REPLACEMENT_TRIES = 100
"""Bad samples in a row that are replaced before the loader gives up on the source."""


@dataclass(frozen=True)
class Layout:
    """Which slice of which batches this process needs."""

    global_batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.global_batch_size % self.world_size:
            below = self.global_batch_size // self.world_size * self.world_size
            raise UserError(
                f"global_batch_size={self.global_batch_size} is not divisible by {self.world_size} ranks; "
                f"nearest: {below or self.world_size}, {below + self.world_size}"
            )

    @property
    def batch_size(self) -> int:
        """Samples of one rank's slice."""
        return self.global_batch_size // self.world_size


class PlannedSource(IterableDataset):
    """First stage: endless webdataset dicts in planned order, from `start` on; unreadable ones are replaced."""

    def __init__(self, source: Source, plan: Plan, layout: Layout, start: DataPosition) -> None:
        self.source = source
        self.plan = plan
        self.layout = layout
        self.start = start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size = self.layout.global_batch_size
        batch_start = self.start.samples_consumed + number * size
        while True:
            for position in self.plan.rank_slice(batch_start, size, self.layout.rank, self.layout.world_size).tolist():
                shard, row = self.plan.locate(position)
                where = {"__position__": position, "__batch_start__": batch_start, "__try__": 0}
                try:
                    sample = {**self.source.read(shard, row), **where, "__id__": self.source.sample_id(shard, row)}
                except BadSampleError as error:
                    bad = {**where, "__id__": self.source.sample_id(shard, row)}
                    sample = self.replacement(bad, str(error))
                yield sample
            batch_start += size * workers

    def replacement(self, bad: dict[str, Any], reason: str) -> dict[str, Any]:
        """A readable sample for the position of `bad`, the same at every replay, from outside its batch.

        Raises:
            BadSampleError: one hundred draws in a row were bad too.
        """
        position, attempt = bad["__position__"], bad["__try__"]
        replaced = bad.get("__replaced__", (bad["__id__"], reason))
        batch = {
            self.plan.locate(p) for p in self.plan.batch(bad["__batch_start__"], self.layout.global_batch_size).tolist()
        }
        while attempt < REPLACEMENT_TRIES:
            draw = integer(self.plan.seed + attempt, Stream.REPLACEMENT, position, self.plan.samples_per_epoch)
            attempt += 1
            place = self.plan.locate(draw)
            if place in batch and len(batch) < self.plan.samples_per_epoch:
                continue
            marks = {name: bad[name] for name in ("__position__", "__batch_start__")}
            try:
                sample = self.source.read(*place)
            except BadSampleError:
                continue
            identity = self.source.sample_id(*place)
            return {**sample, **marks, "__try__": attempt, "__id__": identity, "__replaced__": replaced}
        raise BadSampleError(
            f"sample {replaced[0]} is bad ({replaced[1]}), and so were {REPLACEMENT_TRIES} drawn in its place: "
            "check the shards with the caption fields of this run"
        )


class Prepare:
    """Second stage: run the maps over each sample; one that proves bad is replaced and the maps start afresh."""

    def __init__(self, planned: PlannedSource, maps: Sequence[SampleMap]) -> None:
        self.planned = planned
        self.maps = maps

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            raw = sample
            while True:
                try:
                    prepared = raw
                    for function in self.maps:
                        prepared = function(prepared)
                except BadSampleError as error:
                    raw = self.planned.replacement(raw, str(error))
                else:
                    yield prepared
                    break
