"""The first stages of the training loader: what the plan says, read in its order, with bad samples replaced."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from mmclip.batch import DataPosition
from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.look_ahead import Slices, is_on_stores, look_ahead
from mmclip_data.loading.order import Order
from mmclip_data.loading.sources import Source
from mmclip_data.loading.watchdog import Whereabouts
from mmclip_data.stores import LookAhead

SampleMap = Callable[[dict[str, Any]], dict[str, Any]]

REPLACEMENT_TRIES = 100
"""Bad samples in a row that are replaced before the loader gives up on the source."""

BATCHES_KEPT = 8

SAMPLES_LOCATED = 512
"""Samples whose places are worked out together: numpy's calls cost as much for one batch as for several small ones."""


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

    def __init__(self, source: Source, plan: Order, layout: Layout, start: DataPosition) -> None:
        self.source = source
        self.plan = plan
        self.layout = layout
        self.start = start
        self._known_places: deque[tuple[int, set[tuple[int, int]]]] = deque(maxlen=BATCHES_KEPT)
        self._is_on_stores = is_on_stores(source)
        self._looks_ahead: dict[int, Future[LookAhead | None]] = {}
        """By process: neither threads nor locks come along through a fork."""
        self.watch: Whereabouts | None = None
        """Where a loader process notes what it is at."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        together = max(1, SAMPLES_LOCATED // self.layout.batch_size)
        steps = self.steps()
        while True:
            batches = list(islice(steps, together))
            places = iter(self.plan.locate_all([position for _, positions in batches for position in positions]))
            for batch_start, positions in batches:
                for position in positions:
                    yield self.sample(position, next(places), batch_start)

    def steps(self) -> Iterator[tuple[int, list[int]]]:
        """The batches that this process fills: where each begins, and this rank's positions in it."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size = self.layout.global_batch_size
        batch_start = self.start.samples_consumed + number * size
        while True:
            yield batch_start, self.positions(batch_start)
            batch_start += size * workers

    def positions(self, batch_start: int) -> list[int]:
        """This rank's positions in the batch that begins at `batch_start`."""
        layout = self.layout
        return self.plan.rank_slice(batch_start, layout.global_batch_size, layout.rank, layout.world_size).tolist()

    def sample(self, position: int, place: tuple[int, int], batch_start: int) -> dict[str, Any]:
        """The sample at a position, whose shard and row are `place`, or the one that replaces it."""
        if self.watch is not None:
            self.watch.note(position)
        shard, row = place
        if self._is_on_stores:
            ahead = self._look_ahead()
            if ahead is not None:
                ahead.advance()
        try:
            sample = self.source.read(shard, row)
        except BadSampleError as error:
            where = {"__position__": position, "__batch_start__": batch_start, "__try__": 0, "__place__": place}
            return self.replacement({**where, "__id__": self.source.sample_id(shard, row)}, str(error))
        sample["__position__"], sample["__batch_start__"] = position, batch_start
        sample["__try__"], sample["__place__"] = 0, place
        if "__id__" not in sample:  # a source that has just made it hands it on
            sample["__id__"] = self.source.sample_id(shard, row)
        return sample

    def name(self, position: int) -> str:
        """The identity of the sample at a position."""
        return self.source.sample_id(*self.plan.locate(position))

    def _look_ahead(self) -> LookAhead | None:
        """Begun once in each process that reads, by the first of its threads; the others wait for it."""
        found = self._looks_ahead.get(os.getpid())
        if found is None:
            mine: Future[LookAhead | None] = Future()
            found = self._looks_ahead.setdefault(os.getpid(), mine)
            if found is mine:
                try:
                    mine.set_result(look_ahead(self.source, self._slices()))
                except BaseException as error:  # it belongs to each of them
                    mine.set_exception(error)
        return found.result()

    def _slices(self) -> Slices:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size, rank, world_size = self.layout.global_batch_size, self.layout.rank, self.layout.world_size
        return Slices(self.plan, self.start.samples_consumed, size, rank, world_size, number, workers)

    def replacement(self, bad: dict[str, Any], reason: str) -> dict[str, Any]:
        """A readable sample for the position of `bad`, the same at every replay, from outside its batch.

        Raises:
            BadSampleError: one hundred draws in a row were bad too.
        """
        position, attempt = bad["__position__"], bad["__try__"]
        replaced = bad.get("__replaced__", (bad["__id__"], reason))
        batch = self._places(bad["__batch_start__"])
        pool = self.plan.pool(position)
        is_spare = sum(pool.first <= shard < pool.end for shard, _ in batch) < pool.samples
        while attempt < REPLACEMENT_TRIES:
            place = self.plan.substitute(position, attempt)
            attempt += 1
            if is_spare and place in batch:
                continue
            marks = {name: bad[name] for name in ("__position__", "__batch_start__", "__out__") if name in bad}
            try:
                sample = self.source.read(*place)
            except BadSampleError:
                continue
            identity = self.source.sample_id(*place)
            marks |= {"__try__": attempt, "__id__": identity, "__place__": place, "__replaced__": replaced}
            return {**sample, **marks}
        raise BadSampleError(
            f"sample {replaced[0]} is bad ({replaced[1]}), and so were {REPLACEMENT_TRIES} drawn in its place: "
            "check the shards with the caption fields of this run"
        )

    def _places(self, batch_start: int) -> set[tuple[int, int]]:
        """Where the samples of a whole batch lie; kept, since of a large batch several samples are bad."""
        for known, places in tuple(self._known_places):  # a copy, because threads share this object
            if known == batch_start:
                return places
        positions = self.plan.batch(batch_start, self.layout.global_batch_size).tolist()
        places = set(self.plan.locate_all(positions))
        self._known_places.append((batch_start, places))
        return places


class Prepare:
    """Second stage: run the maps over each sample; one that proves bad is replaced and the maps start afresh."""

    def __init__(self, planned: PlannedSource, maps: Sequence[SampleMap]) -> None:
        self.planned = planned
        self.maps = maps

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            yield self.one(sample)

    def one(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The sample after all maps, or the first that survives them in its place."""
        while True:
            try:
                prepared = raw
                for function in self.maps:
                    prepared = function(prepared)
            except BadSampleError as error:
                raw = self.planned.replacement(raw, str(error))
            else:
                return prepared
