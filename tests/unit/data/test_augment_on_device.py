"""The crop in the loader and the rest on the device: the same pictures for any layout, and none of it done twice."""

from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.augment import AugmentConfig, ViewConfig, augment_batch
from mmclip_data.loading.build import build_loader
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.on_device import finish_on_device
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard

CROP = AugmentConfig(crop_area=(0.4, 1.0), pad=0.1)
ALL = AugmentConfig(
    crop_area=(0.4, 1.0), pad=0.1, flip=0.5, brightness=0.4, saturation=0.3, hue=0.1, blur=0.5, solarise=0.3
)
SPEC = ImageSpec(size=(12, 12))
CPU = torch.device("cpu")
Place = Literal["loader", "device"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for key, members in make_shard(24).samples.items():
            writer.add(key, members)
    return tmp_path


def batches(
    shards: Path, augment: AugmentConfig, place: Place, layout: Layout, workers: int = 0
) -> list[ImageTextBatch]:
    source = IndexedTarsConfig(shards=str(shards))
    views = (ViewConfig(copies=2, size=8, augment=augment),)
    config = DataConfig(source=source, augment=augment, views=views, augment_on=place, workers=workers)
    tokenize = lambda captions: torch.zeros(len(captions), 1, dtype=torch.int64)  # noqa: E731
    loaded = build_loader(config, SPEC, tokenize, layout, seed=3).batches(DataPosition(0))
    return list(islice(finish_on_device(loaded, config, SPEC, CPU), 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_crops_and_the_device_does_the_rest(shards: Path, workers: int) -> None:
    cropped = batches(shards, CROP, "loader", Layout(6))
    for plain, got in zip(cropped, batches(shards, ALL, "device", Layout(6), workers), strict=True):
        assert torch.equal(got.images, augment_batch(plain.images, plain.keys, ALL))
        for number, (view, made) in enumerate(zip(plain.views, got.views, strict=True), start=1):
            assert torch.equal(made, augment_batch(view, plain.keys, ALL, number))
        assert not torch.equal(got.images, plain.images)
        assert (got.ids, got.position) == (plain.ids, plain.position)


def test_ranks_together_see_what_one_sees(shards: Path) -> None:
    whole = batches(shards, ALL, "device", Layout(6))
    halves = [batches(shards, ALL, "device", Layout(6, rank, 2)) for rank in (0, 1)]
    for one, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(one.images, torch.cat([part.images for part in parts]))


def test_by_default_the_loader_does_all_and_batches_pass_as_they_are(shards: Path) -> None:
    loaded = iter(())
    assert finish_on_device(loaded, DataConfig(source=IndexedTarsConfig(shards=str(shards))), SPEC, CPU) is loaded
    by_loader = batches(shards, ALL, "loader", Layout(6))
    assert not torch.equal(by_loader[0].images, batches(shards, CROP, "loader", Layout(6))[0].images)


def test_a_stream_leaves_the_rest_to_the_device_too(shards: Path) -> None:
    made = []
    places: list[tuple[AugmentConfig, Place]] = [(CROP, "loader"), (ALL, "device")]
    for augment, place in places:
        source = StreamingConfig(shards=str(shards), samples=24, shuffle_samples=1)
        config = DataConfig(source=source, augment=augment, augment_on=place, workers=0)
        tokenize = lambda captions: torch.zeros(len(captions), 1, dtype=torch.int64)  # noqa: E731
        loaded = build_loader(config, SPEC, tokenize, Layout(6), seed=3).batches(DataPosition(0))
        made.append(next(finish_on_device(loaded, config, SPEC, CPU)))
    assert torch.equal(made[1].images, augment_batch(made[0].images, made[0].keys, ALL))
