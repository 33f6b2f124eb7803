"""What follows the crop, done where the model is: a batch at once, which leaves the loader's cores to decoding.

The draws come from the samples' keys, so that any layout and any replay makes the same pictures. They are not those of the
loader, which draws by position: a run keeps to one of the two.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from mmclip.batch import ImageTextBatch
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.augment import View, augment_batch, views_of
from mmclip_data.loading.loader import DataConfig


def finish_on_device(
    batches: Iterator[ImageTextBatch], config: DataConfig, spec: ImageSpec, device: torch.device
) -> Iterator[ImageTextBatch]:
    """The batches as the model should see them: on `device` and augmented there, if `config` says so, else as they are."""
    if config.augment_on == "loader":
        return batches
    return _augmented(batches, views_of(spec, config.augment, config.views), device)


def _augmented(batches: Iterator[ImageTextBatch], views: list[View], device: torch.device) -> Iterator[ImageTextBatch]:
    for batch in batches:
        keys, moved = batch.keys, batch.to(device)  # draws are made on the host, which has the keys already
        del batch  # it would keep its memory while the next one looks for some
        images, *further = (
            augment_batch(pixels, keys, view.augment, view.number)
            for pixels, view in zip((moved.images, *moved.views), views, strict=True)
        )
        moved = replace(moved, images=images, views=tuple(further))
        del images, further
        yield moved
        del moved
