"""Samples become one `ImageTextBatch`, each decoded straight into its row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip.batch import DataPosition, ImageTextBatch, Replacement
from mmclip.errors import UserError
from mmclip.randomness import Stream, words
from mmclip_data.loading.planned import Layout, Prepare
from mmclip_data.loading.slots import SlotSource, Views

Tokenize = Callable[[Sequence[str]], Int[Tensor, "batch token"]]


def no_tokens(captions: Sequence[str]) -> Int[Tensor, "batch 0"]:
    """A `Tokenize` of a run without captions: no column, so nothing can be mistaken for a text."""
    return torch.empty((len(captions), 0), dtype=torch.int64)


class Row(NamedTuple):
    """What a batch keeps of a sample besides its pixels."""

    position: int
    sample_id: str
    caption: str
    key: int
    replaced: tuple[str, str] | None
    image_features: NDArray[np.float32] | None = None
    text_features: NDArray[np.float32] | None = None
    caption_number: int = 0
    number: int | None = None
    """Of its class."""


@dataclass(eq=False)
class OpenBatch:
    """A batch that is being filled."""

    start: int
    positions: list[int]
    places: list[tuple[int, int]]
    views: Views
    arrays: list[NDArray[np.uint8]]
    """The memory of `views`, [batch, height, width, 3]."""
    rows: list[Row | None]


@dataclass(frozen=True)
class Assemble:
    """A rank's samples of one step become one batch, in memory from `slots`."""

    layout: Layout
    tokenize: Tokenize
    seed: int
    slots: SlotSource

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[ImageTextBatch]:
        """The last stage of a `webdataset.DataPipeline`, whose samples own their pixels."""
        while True:
            batch = self.begin(0, [0] * self.layout.batch_size, [])
            for row, sample in zip(range(self.layout.batch_size), samples, strict=False):
                batch.start = sample["__batch_start__"]
                self.place(batch, row, sample)
            finished = self.finish(batch)
            del batch  # it would keep its memory while the next one looks for some
            yield finished
            del finished

    def begin(self, start: int, positions: list[int], places: list[tuple[int, int]]) -> OpenBatch:
        """An empty batch."""
        views = self.slots.take()
        arrays = [view.permute(0, 2, 3, 1).numpy() for view in views]
        return OpenBatch(start, positions, places, views, arrays, [None] * len(positions))

    def place(self, batch: OpenBatch, row: int, sample: dict[str, Any]) -> None:
        """Note a sample, and copy its pixels if they are not where they belong.

        Raises:
            UserError: a map changed the form of the pixels.
        """
        made = sample.get("__made__", (None,) * len(batch.arrays))
        views = (sample["pixels"], *sample.get("views", ()))
        for array, pixels, own in zip(batch.arrays, views, made, strict=True):
            if pixels is own:
                continue
            form = (*array.shape[3:], *array.shape[1:3])
            if tuple(pixels.shape) != form or pixels.dtype != torch.uint8:
                raise UserError(
                    f"sample {sample['__id__']}: pixels are {pixels.dtype} {list(pixels.shape)}, expected uint8 "
                    f"{list(form)}; a map may change the values of pixels, not their form"
                )
            # What a map returns may be another view of the same memory, such as a mirrored one.
            source = pixels if own is None else pixels.clone()
            np.copyto(array[row], source.permute(1, 2, 0).numpy())
        position = sample["__position__"]
        key = int(words(self.seed, Stream.SAMPLE_KEY, position, 1)[0]) >> 1
        batch.rows[row] = Row(
            position,
            sample["__id__"],
            sample["caption"],
            key,
            sample.get("__replaced__"),
            sample.get("image_features"),
            sample.get("text_features"),
            sample.get("caption_number", 0),
            sample.get("class"),
        )

    def finish(self, batch: OpenBatch) -> ImageTextBatch:
        """The batch, all of whose rows are filled."""
        rows = [row for row in batch.rows if row is not None]
        assert len(rows) == self.layout.batch_size, "every row was placed"
        text_features = _stacked([row.text_features for row in rows])
        numbers = [[row.caption_number] for row in rows]
        classes = [row.number for row in rows if row.number is not None]
        return ImageTextBatch(
            images=batch.views[0],
            tokens=self.tokenize([row.caption for row in rows]) if text_features is None else torch.tensor(numbers),
            keys=torch.tensor([row.key for row in rows], dtype=torch.int64),
            ids=tuple(row.sample_id for row in rows),
            position=DataPosition(batch.start + self.layout.global_batch_size),
            replaced=tuple(
                Replacement(row.position, *row.replaced, replaced_by=row.sample_id) for row in rows if row.replaced
            ),
            views=batch.views[1:],
            image_features=_stacked([row.image_features for row in rows]),
            text_features=text_features,
            classes=torch.tensor(classes, dtype=torch.int64) if classes else None,
        )


def _stacked(rows: Sequence[NDArray[np.float32] | None]) -> Tensor | None:
    found = [row for row in rows if row is not None]
    assert len(found) in (0, len(rows)), "all rows come from one kind of map"
    return torch.from_numpy(np.stack(found)) if found else None


@dataclass(frozen=True)
class Filler:
    """Planned positions to batches, without a stage in between that would hold samples."""

    prepare: Prepare
    assemble: Assemble

    def __iter__(self) -> Iterator[ImageTextBatch]:
        for start, positions in self.prepare.planned.steps():
            batch = self.begin(start, positions)
            for row in range(len(positions)):
                self.fill(batch, row)
            finished = self.assemble.finish(batch)
            del batch
            yield finished
            del finished

    def begin(self, start: int, positions: list[int]) -> OpenBatch:
        """An empty batch that knows its samples."""
        return self.assemble.begin(start, positions, self.prepare.planned.plan.locate_all(positions))

    def fill(self, batch: OpenBatch, row: int) -> None:
        """Read, prepare and place one sample."""
        sample = self.prepare.planned.sample(batch.positions[row], batch.places[row], batch.start)
        sample["__out__"] = [array[row] for array in batch.arrays]
        self.assemble.place(batch, row, self.prepare.one(sample))
