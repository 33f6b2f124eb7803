"""Several sources as one, in shares that the run file gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.randomness import Stream, words
from mmclip_data.loading.datasets_source import DatasetsConfig
from mmclip_data.loading.mixture_order import MixtureOrder, make_segments, slot_counts
from mmclip_data.loading.order import Draws, Order
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig, LeavesPictures, Source, SyntheticConfig
from mmclip_data.stores import RemoteReader


@config
class PartConfig:
    """One source of a mixture."""

    source: Annotated[IndexedTarsConfig | DatasetsConfig | SyntheticConfig, Field(discriminator="type")]
    """Where its samples come from; each source of a mixture needs a `name` of its own."""
    weight: float | None = None
    """Its share of the samples, against the sum of all weights; with none at all, shares follow the numbers of samples."""
    captions: tuple[str, ...] | None = None
    """Its caption fields, where they differ from `data.captions`."""


@config
class WeightsConfig:
    """New shares from a point of the run on."""

    samples_seen: int
    """The first position that they hold for: samples of all ranks since the start of the run."""
    weights: tuple[float, ...]
    """One for each source, in their order; 0 leaves one out."""


@config
class MixtureConfig:
    """Several sources in given shares; an epoch is as many samples as all of them hold together."""

    type: Literal["mixture"] = "mixture"
    sources: tuple[PartConfig, ...]
    """Each a `[[data.source.sources]]` table."""
    slots: int = 1000
    """Positions after which the shares come out exactly."""
    changes: tuple[WeightsConfig, ...] = ()
    """Later shares, each a `[[data.source.changes]]` table; a resumed run may add some ahead of it, and alter none behind."""

    def weights_of(self, samples: Sequence[int]) -> tuple[float, ...]:
        """The first weights, for sources of so many samples.

        Raises:
            UserError: some sources have a weight and others none.
        """
        given = [part.weight for part in self.sources if part.weight is not None]
        if not given:
            return tuple(map(float, samples))
        if len(given) < len(self.sources):
            missing = next(number for number, part in enumerate(self.sources) if part.weight is None)
            raise UserError(
                f"data.source.sources: {len(given)} of {len(self.sources)} have a weight, number {missing + 1} has none: "
                "expected one for each, or none at all"
            )
        return tuple(given)

    def tables(self, samples: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        """From which position on each source has how many slots.

        Raises:
            UserError: weights or breakpoints cannot be.
        """
        if self.slots < 1:
            raise UserError(f"data.source.slots={self.slots}: expected at least 1")
        tables = [(0, slot_counts(self.weights_of(samples), self.slots))]
        for change in self.changes:
            if change.samples_seen <= tables[-1][0] or len(change.weights) != len(samples):
                raise UserError(
                    f"data.source.changes: samples_seen={change.samples_seen}, weights={list(change.weights)}: expected "
                    f"samples_seen above {tables[-1][0]}, the one before, and {len(samples)} weights"
                )
            tables.append((change.samples_seen, slot_counts(change.weights, self.slots)))
        return tables


@dataclass(frozen=True)
class Part:
    """A source of a mixture, opened."""

    source: Source
    captions: tuple[str, ...]
    name: str

    @property
    def samples(self) -> int:
        """Samples that it holds."""
        return int(self.source.shard_sizes.sum())


class Mixture:
    """The shards of all parts in a row; which part comes when is the affair of the order.

    Raises:
        UserError: there is no part, or two have one name.
    """

    def __init__(self, config: MixtureConfig, parts: Sequence[Part]) -> None:
        names = [part.name for part in parts]
        twice = [name for name in names if names.count(name) > 1]
        if twice or not parts:
            raise UserError(
                f"data.source.sources: {names.count(twice[0])} sources are named {twice[0]!r}, and samples are told apart "
                "by that: give each its own name"
                if twice
                else "data.source.sources is empty: expected a [[data.source.sources]] table for each source"
            )
        self.config = config
        self.parts = tuple(parts)
        self.first_shards = np.cumsum([0, *(len(part.source.shard_sizes) for part in parts)])
        self.tables = config.tables([part.samples for part in parts])

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        return np.concatenate([part.source.shard_sizes for part in self.parts])

    @property
    def fingerprint(self) -> str:
        named = [(part.name, part.source.fingerprint) for part in self.parts]
        return xxhash.xxh3_128_hexdigest(repr(named).encode())

    @property
    def remote_readers(self) -> list[RemoteReader | None]:
        """The reader of each shard that is on a store."""
        return [
            reader
            for part in self.parts
            for reader in (
                part.source.remote_readers
                if isinstance(part.source, IndexedTars)
                else [None] * len(part.source.shard_sizes)
            )
        ]

    def sample_id(self, shard: int, row: int) -> str:
        part, own = self._part(shard)
        return part.source.sample_id(own, row)

    def leave_pictures(self) -> None:
        for part in self.parts:
            if isinstance(part.source, LeavesPictures):
                part.source.leave_pictures()

    def read(self, shard: int, row: int) -> dict[str, Any]:
        part, own = self._part(shard)
        return {**part.source.read(own, row), "__captions__": part.captions}

    def order(self, config: PlanConfig, seed: int) -> MixtureOrder:
        """The order of the whole; that of each part depends on its name, and not on the others."""
        parts = [order_of(part.source, config, _seed_of(seed, part.name)) for part in self.parts]
        return MixtureOrder(seed, parts, self.first_shards[:-1].tolist(), make_segments(self.tables))

    def _part(self, shard: int) -> tuple[Part, int]:
        number = int(np.searchsorted(self.first_shards, shard, side="right")) - 1
        return self.parts[number], shard - int(self.first_shards[number])


def order_of(source: Source, config: PlanConfig, seed: int) -> Order:
    """The order that `config` asks for."""
    if isinstance(source, Mixture):
        return source.order(config, seed)
    if config.sampling == "replacement":
        return Draws(seed, source.shard_sizes)
    return Plan(config, seed, source.shard_sizes)


def _seed_of(seed: int, name: str) -> int:
    return int(words(seed, Stream.SOURCE, xxhash.xxh3_64_intdigest(name.encode()), 1)[0]) >> 1
