import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import BadSampleError, UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.augment import AugmentConfig
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.plan import PlanConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig, SyntheticConfig
from mmclip_data.shards import ShardWriter

SPEC = ImageSpec(size=(16, 16))
SIZES = (23, 40, 17, 30, 11, 29)
TOTAL = sum(SIZES)


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six uneven shards; three samples hold no picture, only bytes."""
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for shard, size in enumerate(SIZES):
        with ShardWriter(folder, f"part-{shard}-{{:d}}.tar", samples_per_shard=1000) as writer:
            for row in range(size):
                data = b"not a picture" if number in (5, 77, 140) else picture(number)
                captions = json.dumps({"captions": [f"caption {number} {i}" for i in range(3)]}).encode()
                writer.add(f"{row:04d}", {"png": data, "txt": f"caption {number}".encode(), "json": captions})
                number += 1
    return folder


def make_loader(
    shards: Path, layout: Layout, workers: int = 0, seed: int = 0, maps: tuple = (), **changes: Any
) -> TrainLoader:
    config = DataConfig(
        source=IndexedTarsConfig(shards=str(shards)),
        captions=("txt", "json:captions"),
        augment=AugmentConfig(crop_area=(0.3, 1.0), flip=0.5, brightness=0.4),
        plan=PlanConfig(window=20),
        workers=workers,
        **changes,
    )
    return TrainLoader(config, SPEC, Tokenizer({"context_length": 12}), layout, seed, maps)


def take(loader: TrainLoader, start: int, count: int) -> list[ImageTextBatch]:
    batches = loader.batches(DataPosition(start))
    return [next(batches) for _ in range(count)]


def joined(parts: list[list[ImageTextBatch]], step: int) -> tuple[Any, ...]:
    chosen = [part[step] for part in parts]
    ids = sum((batch.ids for batch in chosen), ())
    tensors = [torch.cat([getattr(batch, name) for batch in chosen]) for name in ("images", "tokens", "keys")]
    return ids, *(tensor.numpy().tobytes() for tensor in tensors)


@pytest.mark.parametrize(
    ("ranks", "workers", "kind"),
    [
        (1, 1, "processes"),
        (1, 2, "processes"),
        (2, 0, "processes"),
        (2, 1, "processes"),
        (3, 0, "processes"),
        (4, 2, "processes"),
        (1, 1, "threads"),
        (1, 3, "threads"),
        (2, 2, "threads"),
        (4, 2, "threads"),
    ],
)
@pytest.mark.parametrize("start", [0, 24, 144, 120_000_000])
def test_batches_are_the_same_for_any_layout_and_resume_point(
    shards: Path, ranks: int, workers: int, kind: str, start: int
):
    alone = [take(make_loader(shards, Layout(24)), start, 3)]
    parts = [
        take(make_loader(shards, Layout(24, rank, ranks), workers, loader=kind), start, 3) for rank in range(ranks)
    ]
    for step in range(3):
        assert joined(parts, step) == joined(alone, step)
        assert {part[step].position for part in parts} == {DataPosition(start + 24 * (step + 1))}


def test_resumed_loader_continues_the_same_stream(shards: Path):
    whole = take(make_loader(shards, Layout(24)), 0, 10)
    resumed = take(make_loader(shards, Layout(24)), whole[5].position.samples_consumed, 4)
    assert [batch.ids for batch in resumed] == [batch.ids for batch in whole[6:]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(resumed, whole[6:], strict=True))


def test_each_sample_comes_once_an_epoch_and_bad_ones_are_named(shards: Path):
    batches = take(make_loader(shards, Layout(TOTAL // 6)), 0, 6)
    seen = Counter(name for batch in batches for name in batch.ids)
    replaced = [entry for batch in batches for entry in batch.replaced]
    assert sum(seen.values()) == TOTAL
    bad = {"train/part-0-0.tar/0005", "train/part-2-0.tar/0014", "train/part-4-0.tar/0030"} & set(seen)
    assert not bad
    assert len(replaced) == 3
    assert all("UnidentifiedImageError" in entry.reason for entry in replaced)
    once = Counter(seen)
    once.subtract(entry.replaced_by for entry in replaced)
    once.update(entry.sample_id for entry in replaced)
    assert set(once.values()) == {1}


def test_replacement_stands_outside_its_batch(shards: Path):
    for batch in take(make_loader(shards, Layout(50)), 0, 12):
        assert len(set(batch.ids)) == 50


def test_batch_shape_and_types(shards: Path):
    (batch,) = take(make_loader(shards, Layout(24)), 0, 1)
    assert batch.images.shape == (24, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.tokens.shape == (24, 12)
    assert len(set(batch.keys.tolist())) == 24
    assert batch.keys.min() >= 0


def test_every_caption_of_a_sample_is_drawn_in_time(shards: Path):
    loader = make_loader(shards, Layout(TOTAL))
    texts = Counter(tuple(row) for batch in take(loader, 0, 12) for row in batch.tokens.tolist())
    assert len(texts) > 3.5 * (TOTAL - 3)  # of 4; the expectation is 3.66


def test_augmentation_changes_between_epochs(shards: Path):
    first, second = take(make_loader(shards, Layout(TOTAL)), 0, 2)
    places = {name: i for i, name in enumerate(first.ids)}
    changed = [
        not torch.equal(second.images[i], first.images[places[name]])
        for i, name in enumerate(second.ids)
        if name in places
    ]
    assert sum(changed) > 0.95 * len(changed)


def test_loader_is_a_webdataset_pipeline_over_webdataset_samples(shards: Path):
    pipeline = make_loader(shards, Layout(6)).pipeline(DataPosition(0))
    assert isinstance(pipeline, wds.DataPipeline)
    sample = next(iter(wds.DataPipeline(pipeline.pipeline[0], wds.map(lambda sample: sample))))
    assert {"__key__", "__url__", "png", "txt"} <= set(sample)
    assert isinstance(sample["png"], bytes)


def test_users_own_map_runs_and_may_reject_a_sample(shards: Path):
    def no_even_captions(sample: dict[str, Any]) -> dict[str, Any]:
        if int(sample["caption"].split()[1]) % 2 == 0:
            raise BadSampleError("even")
        return {**sample, "pixels": torch.zeros_like(sample["pixels"])}

    (batch,) = take(make_loader(shards, Layout(40), maps=(no_even_captions,)), 0, 1)
    assert batch.images.max() == 0
    assert {entry.reason for entry in batch.replaced} >= {"even"}


def test_source_in_which_all_is_bad_ends_with_an_error(shards: Path):
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        raise BadSampleError("no sample is good enough")

    with pytest.raises(BadSampleError, match=r"no sample is good enough.*100 drawn in its place"):
        take(make_loader(shards, Layout(6), maps=(refuse,)), 0, 1)


def test_wrong_caption_field_ends_with_an_error_that_names_it(shards: Path):
    config = DataConfig(source=IndexedTarsConfig(shards=str(shards)), captions=("caption",), workers=0)
    loader = TrainLoader(config, SPEC, Tokenizer({}), Layout(6), 0)
    with pytest.raises(BadSampleError, match="no caption in caption"):
        take(loader, 0, 1)


def test_global_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match="global_batch_size=10 is not divisible by 4 ranks; nearest: 8, 12"):
        Layout(10, 0, 4)


def test_shards_without_pictures_are_refused_at_once(tmp_path: Path):
    with ShardWriter(tmp_path, "x-{:d}.tar", samples_per_shard=10) as writer:
        writer.add("a", {"bmp": b"1", "txt": b"a"})
    with pytest.raises(UserError, match=r"x-0.tar holds no picture.*got bmp, txt"):
        make_loader(tmp_path, Layout(1))


def test_fingerprint_follows_data_and_seed(shards: Path, tmp_path: Path):
    with ShardWriter(tmp_path, "x-{:d}.tar", samples_per_shard=10) as writer:
        writer.add("a", {"png": picture(0), "txt": b"a"})
    fingerprints = {
        make_loader(shards, Layout(6)).fingerprint,
        make_loader(shards, Layout(6), seed=1).fingerprint,
        make_loader(tmp_path, Layout(6)).fingerprint,
    }
    assert len(fingerprints) == 3
    assert make_loader(shards, Layout(12)).fingerprint in fingerprints  # the batch size is no part of the order


def test_synthetic_source_is_deterministic():
    config = DataConfig(source=SyntheticConfig(samples=100, image_size=20), workers=0)

    def one() -> ImageTextBatch:
        return take(TrainLoader(config, SPEC, Tokenizer({}), Layout(8), 0), 0, 1)[0]

    first, second = one(), one()
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.tokens, second.tokens)
    assert len(set(first.ids)) == 8
    assert 100 < first.images.float().mean() < 155
