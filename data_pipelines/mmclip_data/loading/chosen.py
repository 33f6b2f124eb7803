"""Some samples of a source, with a class each where a run learns from classes: their captions are then written for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.errors import UserError
from mmclip_data.loading.captions import choose_caption
from mmclip_data.loading.sources import LeavesPictures, Source


@dataclass(frozen=True)
class ChosenSamples:
    """Which samples a run learns from."""

    classes: Mapping[str, int]
    """The class of each by its name (`name_in_source`); -1 where there are no classes."""
    texts: Sequence[Sequence[str]] = ()
    """The captions of each class, of which one is drawn each time that a sample is seen; none: captions of the samples."""

    @property
    def fingerprint(self) -> str:
        """Changes with the samples, their classes and their captions."""
        return xxhash.xxh3_128_hexdigest(repr((sorted(self.classes.items()), list(self.texts))).encode())


def name_in_source(sample_id: str) -> str:
    """A sample's identity without the name of its source, under which training and evaluation both know it."""
    return sample_id.partition("/")[2]


class PartOfSource:
    """The chosen samples of a source, in its order; shards of which none was chosen are left out.

    Raises:
        UserError: nothing was chosen.
    """

    def __init__(self, source: Source, chosen: ChosenSamples) -> None:
        self.source = source
        self.chosen = chosen
        sizes = source.shard_sizes.tolist()
        found = {shard: self._rows(shard, size) for shard, size in enumerate(sizes)}
        self._shards = [(shard, rows) for shard, rows in found.items() if len(rows)]
        if not self._shards:
            raise UserError(f"none of the {sum(sizes):,} samples of data.source was chosen to learn from")

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        return np.array([len(rows) for _, rows in self._shards], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        return xxhash.xxh3_128_hexdigest(f"{self.source.fingerprint} {self.chosen.fingerprint}".encode())

    def sample_id(self, shard: int, row: int) -> str:
        return self.source.sample_id(*self._place(shard, row))

    def read(self, shard: int, row: int) -> dict[str, Any]:
        return self.source.read(*self._place(shard, row))

    def leave_pictures(self) -> None:
        if isinstance(self.source, LeavesPictures):
            self.source.leave_pictures()

    def _place(self, shard: int, row: int) -> tuple[int, int]:
        own, rows = self._shards[shard]
        return own, int(rows[row])

    def _rows(self, shard: int, size: int) -> NDArray[np.int64]:
        classes, name = self.chosen.classes, self.source.sample_id
        return np.array([row for row in range(size) if name_in_source(name(shard, row)) in classes], dtype=np.int64)


@dataclass(frozen=True)
class ClassCaption:
    """A map: the sample gets its class, and as `caption` one of what is written for it."""

    chosen: ChosenSamples
    seed: int

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        number = self.chosen.classes[name_in_source(sample["__id__"])]
        caption = choose_caption([self.chosen.texts[number]], self.seed, sample["__position__"])
        return {**sample, "class": number, "caption": caption}
