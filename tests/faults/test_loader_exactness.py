"""The same ids and pixels for any number of ranks and workers and any resume point, over shards with rotten pictures."""

import io
import os
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmclip import randomness
from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading import plan as plan_module
from mmclip_data.loading.augment import AugmentConfig
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter, open_index
from mmclip_data.shards import read as read_module

SHARDS, IN_SHARD, BATCH = 30, 70, 840
TOTAL = SHARDS * IN_SHARD  # five batches are two epochs, and the first epoch ends inside the third batch
ROTTEN = range(13, TOTAL, 100)  # one in a hundred
LAYOUTS = [(1, 2), (2, 1), (4, 1), (5, 0), (6, 2), (7, 1), (8, 2)]
POINTS = [0, 840, 1680, 2520, 3360, 4200, 840 * 10**6]
"""The first batch; around and inside the epochs' edges at 2,100 and 4,200; and far away."""


def picture(number: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty shards; one picture in a hundred loses a bit after it was indexed."""
    folder = tmp_path_factory.mktemp("exact")
    with ShardWriter(folder, "part-{:02d}.tar", samples_per_shard=IN_SHARD) as writer:
        for number in range(TOTAL):
            writer.add(f"{number:05d}", {"png": picture(number), "txt": f"caption {number}".encode()})
    for number in ROTTEN:
        tar = folder / f"part-{number // IN_SHARD:02d}.tar"
        place = open_index(tar).members(number % IN_SHARD)["png"]
        with tar.open("r+b") as file:
            file.seek(place.offset + place.size // 2)
            flipped = file.read(1)[0] ^ 4
            file.seek(-1, 1)
            file.write(bytes([flipped]))
    return folder


def make_loader(shards: Path, rank: int = 0, ranks: int = 1, workers: int = 0) -> TrainLoader:
    config = DataConfig(
        source=IndexedTarsConfig(shards=str(shards)),
        augment=AugmentConfig(crop_area=(0.3, 1.0), flip=0.5),
        plan=PlanConfig(window=40),
        workers=workers,
        prefetch_batches=1,
    )
    tokenizer = Tokenizer({"context_length": 8})
    return TrainLoader(config, ImageSpec(size=(4, 4)), tokenizer, Layout(BATCH, rank, ranks), seed=5)


def step(shards: Path, start: int, rank: int = 0, ranks: int = 1, workers: int = 0) -> ImageTextBatch:
    batches = make_loader(shards, rank, ranks, workers).batches(DataPosition(start))
    return next(batches)


def joined(parts: list[ImageTextBatch]) -> tuple[Any, ...]:
    images = np.concatenate([part.images.numpy() for part in parts])
    return sum((part.ids for part in parts), ()), images.tobytes(), sum((part.replaced for part in parts), ())


@cache
def reference(shards: Path, start: int) -> tuple[Any, ...]:
    return joined([step(shards, start)])


CASES = [
    # All points without processes of the loader, then each layout at one of them.
    *(pytest.param(3, 0, point) for point in POINTS),
    pytest.param(2, 1, 1680),
    *(pytest.param(*layout, point, marks=pytest.mark.slow) for layout, point in zip(LAYOUTS, POINTS, strict=True)),
]


@pytest.mark.parametrize(("ranks", "workers", "start"), CASES)
def test_ids_pixels_and_replacements_are_those_of_one_process(shards: Path, ranks: int, workers: int, start: int):
    parts = [step(shards, start, rank, ranks, workers) for rank in range(ranks)]
    assert joined(parts) == reference(shards, start)


def test_two_epochs_hold_each_sample_twice_and_name_each_rotten_one(shards: Path):
    batches = make_loader(shards).batches(DataPosition(0))
    taken = [next(batches) for _ in range(5)]
    replaced = [entry for batch in taken for entry in batch.replaced]
    seen = Counter(name for batch in taken for name in batch.ids)
    rotten = {f"train/part-{number // IN_SHARD:02d}.tar/{number:05d}" for number in ROTTEN}
    assert not rotten & set(seen)
    assert Counter(entry.sample_id for entry in replaced) == dict.fromkeys(rotten, 2)
    seen.subtract(entry.replaced_by for entry in replaced)
    assert Counter({name: count for name, count in seen.items() if count}) == {
        f"train/part-{number // IN_SHARD:02d}.tar/{number:05d}": 2 for number in range(TOTAL) if number not in ROTTEN
    }
    assert all(Counter(batch.ids)[entry.replaced_by] == 1 for batch in taken[:2] for entry in batch.replaced)


def test_eight_ranks_read_an_eighth_of_the_bytes_each(shards: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return os.pread(descriptor, size, offset)

    fake = type("os", (), {**{name: getattr(os, name) for name in ("open", "close", "O_RDONLY", "O_CLOEXEC")}})
    fake.pread = staticmethod(counted)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(read_module, "os", fake)
    shares: list[int] = []
    for rank in range(8):
        read.clear()
        batches = make_loader(shards, rank, 8).batches(DataPosition(0))
        for _ in range(5):
            next(batches)
        shares.append(sum(read))
    whole = 2 * sum(open_index(tar).columns["member_size"].sum() for tar in shards.glob("*.tar"))
    assert max(shares) <= 1.25 / 8 * whole
    assert sum(shares) >= whole


def test_a_far_position_costs_what_a_near_one_does(monkeypatch: pytest.MonkeyPatch):
    """Two permutations, that of the shards and that of one lane: nothing before the position is looked at."""
    drawn: list[int] = []

    def counted(seed: int, stream: randomness.Stream, position: int, length: int) -> Any:
        drawn.append(length)
        return randomness.permutation(seed, stream, position, length)

    monkeypatch.setattr(plan_module, "permutation", counted)
    plan = Plan(PlanConfig(), seed=77, shard_sizes=np.full(1200, 10_000))
    costs = {}
    for position in (0, 10**9, 10**15):
        drawn.clear()
        begun = time.perf_counter()
        plan.locate(position)
        print(f"position {position:,}: {1e3 * (time.perf_counter() - begun):.2f} ms")
        costs[position] = sorted(drawn)
    assert all(len(lengths) == 2 and sum(lengths) <= 1200 + 16384 for lengths in costs.values())
