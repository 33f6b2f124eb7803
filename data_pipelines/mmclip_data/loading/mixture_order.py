"""The order of a mixture: a table says which source each position draws from, and each source has a line of its own.

A table of L slots gives source k exactly c_k of them, spread as evenly as they go. It is used over and over, so position p
takes slot p mod L, and how many samples each source has given before p is arithmetic too. At a breakpoint another table
begins, and each source goes on where it stood.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.errors import UserError
from mmclip_data.loading.order import ORDER_VERSION, Order, Pool


@dataclass(frozen=True)
class Segment:
    """The part of a run from position `start` on, in which a table holds."""

    start: int
    counts: tuple[int, ...]
    """Slots of each source."""
    given: tuple[int, ...]
    """Samples that each source has given before `start`."""
    source: NDArray[np.int64]
    """The source of each slot."""
    before: NDArray[np.int64]
    """How many slots of the same source stand before each slot."""

    def own(self, position: int) -> tuple[int, int]:
        """The source of a position, and the position on that source's own line."""
        cycle, slot = divmod(position - self.start, len(self.source))
        source = int(self.source[slot])
        return source, self.given[source] + cycle * self.counts[source] + int(self.before[slot])

    def given_before(self, position: int) -> tuple[int, ...]:
        """Samples that each source has given before a position of the segment."""
        cycle, slot = divmod(position - self.start, len(self.source))
        partial = np.bincount(self.source[:slot], minlength=len(self.counts)).tolist()
        return tuple(
            given + cycle * count + part for given, count, part in zip(self.given, self.counts, partial, strict=True)
        )


def slot_counts(weights: Sequence[float], slots: int) -> tuple[int, ...]:
    """How many of `slots` each source gets: its share rounded down, and the rest by the largest remainders.

    Raises:
        UserError: no weight is above 0, one is below, or the share of one is too small for a slot.
    """
    total = float(sum(weights))
    if not 0 < total < float("inf") or min(weights) < 0:
        raise UserError(f"data.source: weights {list(weights)}: expected numbers of 0 or more, at least one above 0")
    shares = np.array(weights, dtype=np.float64) / total * slots
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: slots - int(counts.sum())]] += 1
    lost = [weight for weight, count in zip(weights, counts.tolist(), strict=True) if weight and not count]
    if lost:
        raise UserError(
            f"data.source: a weight of {lost[0]} of {total:g} is less than one of data.source.slots = {slots}, so that "
            f"source would never come: give at least {int(np.ceil(total / lost[0]))} slots, or take the source out"
        )
    return tuple(counts.tolist())


def slot_table(counts: Sequence[int]) -> NDArray[np.int64]:
    """The source of each slot: the i-th slot of source k is due at (i + 1/2) / c_k of the way, the first due comes first."""
    source = np.repeat(np.arange(len(counts)), counts)
    due = np.concatenate([(2 * np.arange(count) + 1) / (2 * count) for count in counts if count])
    return source[np.argsort(due, kind="stable")].astype(np.int64)


def make_segments(tables: Sequence[tuple[int, Sequence[int]]]) -> tuple[Segment, ...]:
    """Segments from the first position and the slots of each source of each."""
    segments: list[Segment] = []
    for start, counts in tables:
        given = segments[-1].given_before(start) if segments else (0,) * len(counts)
        source = slot_table(counts)
        before = np.zeros_like(source)
        for number in range(len(counts)):
            before[source == number] = np.arange(counts[number])
        segments.append(Segment(start, tuple(counts), given, source, before))
    return tuple(segments)


class MixtureOrder(Order):
    """Several orders as one; `first_shards` are the numbers that the first shard of each part has in the whole."""

    def __init__(
        self, seed: int, parts: Sequence[Order], first_shards: Sequence[int], segments: Sequence[Segment]
    ) -> None:
        self.seed = seed
        self.parts = tuple(parts)
        self.first_shards = tuple(first_shards)
        self.segments = tuple(segments)
        self.samples_per_epoch = sum(part.samples_per_epoch for part in parts)

    def fingerprint(self, source_fingerprint: str, consumed: int | None = None) -> str:
        tables = [
            (segment.start, segment.counts)
            for segment in self.segments
            if consumed is None or segment.start == 0 or segment.start < consumed
        ]
        own = [part.fingerprint("") for part in self.parts]
        parts = (ORDER_VERSION, "mixture", self.seed, source_fingerprint, tables, own)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def locate(self, position: int) -> tuple[int, int]:
        number, own = self.own(position)
        shard, row = self.parts[number].locate(own)
        return self.first_shards[number] + shard, row

    def locate_all(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        owned = [self.own(position) for position in positions]
        found: list[tuple[int, int]] = [(0, 0)] * len(owned)
        for number, part in enumerate(self.parts):
            rows = [row for row, (source, _) in enumerate(owned) if source == number]
            for row, (shard, place) in zip(rows, part.locate_all([owned[row][1] for row in rows]), strict=True):
                found[row] = self.first_shards[number] + shard, place
        return found

    def own(self, position: int) -> tuple[int, int]:
        """The source of a position, and the position on that source's own line."""
        return self._segment(position).own(position)

    def given_before(self, position: int) -> tuple[int, ...]:
        """Samples that each source has given before a position."""
        return self._segment(position).given_before(position)

    def most_in_batch(self, size: int) -> tuple[int, ...]:
        """How many samples of each source the first batch of some segment holds; no batch holds more than one more."""
        first = [
            [after - before for after, before in zip(part.given_before(part.start + size), part.given, strict=True)]
            for part in self.segments
        ]
        return tuple(max(counts) for counts in zip(*first, strict=True))

    def places(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each source's own fractions, so that a rank reads its share of the shards of every source."""
        found = np.empty(len(positions), dtype=np.float64)
        ends = [segment.start for segment in self.segments[1:]] + [np.iinfo(np.int64).max]
        for segment, end in zip(self.segments, ends, strict=True):
            cycles, slots = np.divmod(positions - segment.start, len(segment.source))
            for number, part in enumerate(self.parts):
                inside = (segment.start <= positions) & (positions < end) & (segment.source[slots] == number)
                own = segment.given[number] + cycles * segment.counts[number] + segment.before[slots]
                found[inside] = part.places(own[inside])
        return found

    def substitute(self, position: int, attempt: int) -> tuple[int, int]:
        number, own = self.own(position)
        shard, row = self.parts[number].substitute(own, attempt)
        return self.first_shards[number] + shard, row

    def pool(self, position: int) -> Pool:
        number, own = self.own(position)
        first, end, samples = self.parts[number].pool(own)
        return Pool(self.first_shards[number] + first, self.first_shards[number] + end, samples)

    def _segment(self, position: int) -> Segment:
        return next(segment for segment in reversed(self.segments) if segment.start <= position)
