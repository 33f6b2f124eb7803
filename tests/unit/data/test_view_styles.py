"""Views by name: what objectives need becomes what the loader makes, the same for any layout, beside what a file asks for."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.objectives.base import Style, ViewNeed
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.augment import AugmentConfig, ViewConfig, augment_batch, views_of
from mmclip_data.loading.build import build_loader
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.mixture import MixtureConfig, PartConfig
from mmclip_data.loading.on_device import finish_on_device
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.loading.styles import DrawnViews, augmentation, needed_views
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard

SPEC = ImageSpec(size=(224, 224))
SMALL = ImageSpec(size=(28, 28))
GLOBAL = ViewNeed("global", copies=2, style="strong", crop_area=(0.4, 1.0))
LOCAL = ViewNeed("local", copies=3, style="local", crop_area=(0.05, 0.4))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for key, members in make_shard(24).samples.items():
            writer.add(key, members)
    return tmp_path


def sizes(views: DrawnViews, spec: ImageSpec) -> list[tuple[int, int]]:
    return [view.size for view in views_of(spec, AugmentConfig(), views.configs)[1:]]


def test_each_need_gets_its_copies_at_its_places_behind_those_of_the_file():
    own = (ViewConfig(copies=2, size=10),)
    views = needed_views([GLOBAL, LOCAL, GLOBAL], SPEC, (16, 16), own)
    assert views.configs[0] == own[0]
    assert views.places == {"global": (2, 3), "local": (4, 5, 6)}
    assert sizes(views, SPEC) == [(10, 10)] * 2 + [(224, 224)] * 2 + [(96, 96)] * 3
    assert {view.name: view.augment.crop_area for view in views.configs[1:]} == {
        "global": (0.4, 1.0),
        "local": (0.05, 0.4),
    }


@pytest.mark.parametrize(
    ("side", "patch", "local"), [(224, 16, 96), (224, 14, 98), (336, 14, 140), (64, 8, 24), (28, 28, 28)]
)
def test_small_crops_are_three_sevenths_of_the_model_in_whole_patches(side: int, patch: int, local: int):
    spec = ImageSpec(size=(side, side))
    assert sizes(needed_views([LOCAL], spec, (patch, patch)), spec) == [(local, local)] * 3


def test_views_follow_the_model_to_another_size():
    views = needed_views([GLOBAL, LOCAL], SPEC, (16, 16))
    assert sizes(views, replace(SPEC, size=(112, 112))) == [(112, 112)] * 2 + [(48, 48)] * 3


def test_every_style_has_a_drawing_and_no_two_are_the_same():
    drawn = [augmentation(style, (0.2, 1.0)) for style in get_args(Style)]
    assert all(config.crop_area == (0.2, 1.0) for config in drawn)
    assert len({repr(config) for config in drawn}) == len(drawn)
    assert augmentation("weak", (0.5, 1.0)) == AugmentConfig(crop_area=(0.5, 1.0))


def test_strong_views_are_those_of_moco_v2_and_slip():
    assert augmentation("strong", (0.08, 1.0)) == AugmentConfig(
        crop_area=(0.08, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, colour=0.8, grayscale=0.2,
        blur=0.5, blur_sigma=(0.1, 2.0), blur_side=224,
    )  # fmt: skip


def test_a_view_of_the_file_replaces_the_drawing_of_its_name():
    own = ViewConfig(name="global", copies=2, size=160, augment=AugmentConfig(flip=0.1))
    views = needed_views([GLOBAL, LOCAL], SPEC, (16, 16), [own])
    assert views.configs[0] == own
    assert len(views.configs) == 2
    assert views.places == {"global": (0, 1), "local": (2, 3, 4)}


def test_a_model_whose_size_is_no_whole_number_of_patches_keeps_its_size():
    spec = ImageSpec(size=(30, 30))  # a convolution leaves the rest out
    assert sizes(needed_views([GLOBAL], spec, (14, 14), [ViewConfig(name="global", copies=2)]), spec) == [(30, 30)] * 2


@pytest.mark.parametrize(
    ("needs", "own", "words"),
    [
        ([GLOBAL], [ViewConfig(name="global", copies=3)], ["'global'", "copies=3", "needs 2"]),
        ([GLOBAL], [ViewConfig(name="globl", copies=2)], ["'globl'", "'global'"]),
        ([], [ViewConfig(name="globl", copies=2)], ["'globl'", "none"]),
        ([GLOBAL], [ViewConfig(name="global", copies=2)] * 2, ["'global'", "twice"]),
        ([GLOBAL], [ViewConfig(name="global", copies=2, size=100)], ["'global'", "size=100", "96, 112"]),
        ([replace(LOCAL, size=10)], [], ["'local'", "size=10", "16"]),
        ([GLOBAL, replace(GLOBAL, style="crop")], [], ["'global'", "style='strong'", "style='crop'"]),
        ([GLOBAL, replace(GLOBAL, copies=1)], [], ["'global'", "copies=2", "copies=1"]),
        ([GLOBAL, replace(GLOBAL, crop_area=(0.1, 1.0))], [], ["'global'", "crop_area"]),
        ([replace(GLOBAL, name="")], [], ["name"]),
    ],
)
def test_views_that_do_not_fit_are_refused_by_name(
    needs: Sequence[ViewNeed], own: Sequence[ViewConfig], words: list[str]
):
    with pytest.raises(UserError) as error:
        needed_views(needs, SPEC, (16, 16), own)
    assert all(word in str(error.value) for word in words)


def test_needs_that_look_at_other_things_share_their_views():
    views = needed_views([GLOBAL, replace(GLOBAL, tokens=True, masked=0.5, embeds=True)], SPEC, (16, 16))
    assert views.places == {"global": (0, 1)}


VIEWS = needed_views([GLOBAL, LOCAL], SMALL, (4, 4))
ALL_NEEDS = needed_views(
    [ViewNeed(style, style=style, crop_area=(0.3, 1.0)) for style in get_args(Style)], SMALL, (4, 4)
)


def batches(
    source: Any, layout: Layout, views: DrawnViews, place: Literal["loader", "device"] = "loader", **more: Any
) -> list[ImageTextBatch]:
    config = DataConfig(source=source, views=views.configs, augment_on=place, **{"workers": 0, **more})
    tokenize = lambda captions: torch.zeros(len(captions), 1, dtype=torch.int64)  # noqa: E731
    loaded = build_loader(config, SMALL, tokenize, layout, seed=5).batches(DataPosition(0))
    return list(islice(finish_on_device(loaded, config, SMALL, torch.device("cpu")), 3))


@pytest.mark.parametrize("place", ["loader", "device"])
def test_named_views_are_equal_for_any_layout(shards: Path, place: Literal["loader", "device"]):
    source = IndexedTarsConfig(shards=str(shards))
    whole = batches(source, Layout(6), VIEWS, place)
    workers = batches(source, Layout(6), VIEWS, place, workers=2)
    ranks = [batches(source, Layout(6, rank, 2), VIEWS, place) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert [tuple(view.shape[2:]) for view in batch.views] == [(28, 28)] * 2 + [(12, 12)] * 3
        for number, view in enumerate(batch.views):
            assert torch.equal(view, workers[step].views[number])
            assert torch.equal(view, torch.cat([rank[step].views[number] for rank in ranks]))
        assert not torch.equal(batch.views[0], batch.views[1])


def test_the_first_view_stays_as_it_is_beside_named_ones(shards: Path):
    source = IndexedTarsConfig(shards=str(shards))
    alone = batches(source, Layout(6), DrawnViews((), {}))
    for plain, batch in zip(alone, batches(source, Layout(6), VIEWS), strict=True):
        assert torch.equal(plain.images, batch.images)


def test_every_style_is_finished_on_a_device_from_the_keys(shards: Path):
    source = IndexedTarsConfig(shards=str(shards))
    crops = tuple(replace(view, augment=AugmentConfig(crop_area=(0.3, 1.0))) for view in ALL_NEEDS.configs)
    cropped = batches(source, Layout(6), replace(ALL_NEEDS, configs=crops))
    for plain, batch in zip(cropped, batches(source, Layout(6), ALL_NEEDS, "device"), strict=True):
        for number, config in enumerate(ALL_NEEDS.configs, start=1):
            expected = augment_batch(plain.views[number - 1], plain.keys, config.augment, number)
            assert torch.equal(batch.views[number - 1], expected)


@pytest.mark.parametrize("place", ["loader", "device"])
def test_streams_and_mixtures_have_named_views_too(shards: Path, place: Literal["loader", "device"]):
    tars = IndexedTarsConfig(shards=str(shards))
    mixed = MixtureConfig(sources=(PartConfig(source=tars, weight=1.0),))
    streamed = StreamingConfig(shards=str(shards), samples=24)
    for source in (mixed, streamed):
        for batch in batches(source, Layout(6), VIEWS, place):
            assert [tuple(view.shape[2:]) for view in batch.views] == [(28, 28)] * 2 + [(12, 12)] * 3
            assert all(not torch.equal(batch.views[0], view) for view in batch.views[1:2])
