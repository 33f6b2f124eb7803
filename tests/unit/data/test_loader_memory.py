"""Batches lie in memory that is used again: never while anything refers to it, whoever fills it."""

import gc
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import BadSampleError, MachineError, UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.augment import AugmentConfig, ViewConfig
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.slots import Slots
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

KINDS = ["here", "threads", "processes"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, JPEG and PNG in turn; two are none."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "{:d}.tar", samples_per_shard=10) as writer:
        for number in range(40):
            out = io.BytesIO()
            low = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            image = Image.fromarray(low).resize((50, 40), Image.Resampling.BICUBIC)
            image.save(out, "JPEG" if number % 2 else "PNG")
            data = b"none" if number in (7, 20) else out.getvalue()
            writer.add(f"{number:02d}", {"jpg" if number % 2 else "png": data, "txt": b"caption %d" % number})
    return folder


def make_loader(shards: Path, kind: str, batch: int = 8, maps: tuple = (), **changes: Any) -> TrainLoader:
    config = DataConfig(
        source=IndexedTarsConfig(shards=str(shards)),
        augment=AugmentConfig(crop_area=(0.3, 1.0), flip=0.5, brightness=0.4),
        loader="processes" if kind == "here" else kind,  # pyright: ignore[reportArgumentType]
        **{"workers": 0 if kind == "here" else 2, "max_bad_fraction": 1.0, **changes},
    )
    return TrainLoader(config, ImageSpec(size=(16, 16)), Tokenizer({"context_length": 12}), Layout(batch), 0, maps)


def batches_of(loader: TrainLoader, start: int = 0) -> Iterator[ImageTextBatch]:
    return loader.batches(DataPosition(start))


def content(batch: ImageTextBatch) -> bytes:
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in (batch.images, *batch.views, batch.tokens))


def reference(shards: Path, steps: int, **changes: Any) -> list[bytes]:
    """The batches by webdataset's stages, whose samples own their pixels."""
    stages = iter(make_loader(shards, "here", **changes).pipeline(DataPosition(0)))
    return [content(next(stages)) for _ in range(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_batches_stay_as_they_were(shards: Path, kind: str):
    """The consumer keeps every third batch, a row of every fifth, and drops the others at once, for a hundred steps."""
    expected = reference(shards, 100)
    batches = batches_of(make_loader(shards, kind))
    kept: list[tuple[int, ImageTextBatch]] = []
    rows: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(100):
        batch = next(batches)
        assert content(batch) == expected[step]
        if step % 3 == 0:
            kept.append((step, batch))
        if step % 5 == 0:
            rows.append((batch.images[step % 8], batch.images[step % 8].clone()))
        if step % 10 == 9:
            assert all(content(old) == expected[number] for number, old in kept)
            kept = kept[-3:]
    assert all(torch.equal(row, copy) for row, copy in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_used_again(shards: Path, kind: str):
    batches = batches_of(make_loader(shards, kind))
    places = []
    for _ in range(40):
        batch = next(batches)
        places.append(batch.images.data_ptr())
        del batch
    assert len(set(places)) <= 12, "40 batches, in the slots of two workers"


def test_slot_returns_when_the_last_view_of_it_goes():
    slots = Slots([(4, 6, 5, 3)], keep=1)
    (images,) = slots.take()
    place, row, array = images.data_ptr(), images[2], images.permute(0, 2, 3, 1).numpy()
    del images
    assert slots.take()[0].data_ptr() != place
    del row
    assert slots.take()[0].data_ptr() != place
    derived = array[1:, ::2]
    del array
    assert slots.take()[0].data_ptr() != place
    del derived
    gc.collect()
    slots = None


def test_hammered_slots_never_meet():
    """Threads take, sign, hand over and drop slots at random; a signature that changes was overwritten while in use."""
    slots, faults, stop = Slots([(2, 3, 3, 3)], keep=3), [], time.monotonic() + 2

    def work(number: int) -> None:
        rng, held, sign = np.random.default_rng(number), [], number
        while time.monotonic() < stop:
            sign = (sign * 31 + 7) % 251
            (images,) = slots.take()
            images.fill_(sign)
            held.append((images[1] if rng.random() < 0.5 else images, sign))
            del images
            while len(held) > rng.integers(0, 6):
                tensor, signed = held.pop(int(rng.integers(0, len(held))))
                if not bool((tensor == signed).all()):
                    faults.append(signed)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("kind", KINDS)
def test_consumer_may_keep_everything(shards: Path, kind: str):
    """Nobody waits for memory that the consumer will not give back."""
    batches = batches_of(make_loader(shards, kind))
    kept = [next(batches) for _ in range(30)]
    assert [content(batch) for batch in kept] == reference(shards, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_users_maps_may_return_other_pixels_or_views_of_the_same(shards: Path, kind: str):
    def turn(sample: dict[str, Any]) -> dict[str, Any]:
        pixels = sample["pixels"]
        return {**sample, "pixels": pixels.transpose(1, 2) if sample["__position__"] % 2 else 255 - pixels}

    plain, turned = batches_of(make_loader(shards, kind)), batches_of(make_loader(shards, kind, maps=(turn,)))
    positions = make_loader(shards, kind).plan.batch(0, 8).tolist()
    before, after = next(plain).images, next(turned).images
    for position, was, now in zip(positions, before, after, strict=True):
        assert torch.equal(now, was.transpose(1, 2) if position % 2 else 255 - was)


@pytest.mark.parametrize("kind", KINDS)
def test_map_that_changes_the_form_of_pixels_is_refused(shards: Path, kind: str):
    def shrink(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "pixels": sample["pixels"][:, ::2]}

    with pytest.raises(UserError, match=r"\[3, 8, 16\], expected uint8 \[3, 16, 16\]"):
        next(batches_of(make_loader(shards, kind, maps=(shrink,))))


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_a_sample_is_raised_as_it_is(shards: Path, kind: str):
    def break_down(sample: dict[str, Any]) -> dict[str, Any]:
        raise OSError(5, "the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(batches_of(make_loader(shards, kind, maps=(break_down,))))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_samples_are_replaced_in_their_row(shards: Path, kind: str):
    batches = batches_of(make_loader(shards, kind, batch=20))
    found = [next(batches) for _ in range(2)]
    replaced = [entry for batch in found for entry in batch.replaced]
    assert sorted(entry.sample_id for entry in replaced) == ["train/0.tar/07", "train/2.tar/20"]
    assert [content(batch) for batch in found] == reference(shards, 2, batch=20)


def test_thread_that_hangs_is_named_with_its_sample(shards: Path):
    release = threading.Event()

    def hang(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["caption"] == "caption 11":
            release.wait(30)
        return sample

    batches = batches_of(make_loader(shards, "threads", batch=40, maps=(hang,), timeout_seconds=1))
    with pytest.raises(MachineError, match=r"timeout_seconds = 1; .*worker \d has been at train/1.tar/11"):
        next(batches)
    release.set()


def test_process_that_dies_is_an_error(shards: Path):
    def die(sample: dict[str, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return sample

    with pytest.raises(MachineError, match="a loader process failed"):
        next(batches_of(make_loader(shards, "processes", maps=(die,))))


def test_dropped_loader_ends_its_threads(shards: Path):
    before = set(threading.enumerate())
    batches = batches_of(make_loader(shards, "threads"))
    next(batches)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 2
    del batches
    gc.collect()
    for thread in mine:
        thread.join(10)
    assert not any(thread.is_alive() for thread in mine)


@pytest.mark.parametrize("kind", KINDS)
def test_further_views_travel_with_the_batch(shards: Path, kind: str):
    changes = {"views": (ViewConfig(copies=2, augment=AugmentConfig(crop_area=(0.2, 0.5))), ViewConfig(size=10))}
    plain, more = next(batches_of(make_loader(shards, kind))), batches_of(make_loader(shards, kind, **changes))
    batch = next(more)
    assert torch.equal(batch.images, plain.images), "further views move nothing of the first"
    assert [tuple(view.shape) for view in batch.views] == [(8, 3, 16, 16), (8, 3, 16, 16), (8, 3, 10, 10)]
    assert not torch.equal(batch.views[0], batch.views[1])
    assert content(batch) == reference(shards, 1, **changes)[0]
    assert plain.views == ()


def test_source_in_which_all_is_bad_ends_with_an_error_in_threads_too(shards: Path):
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        raise BadSampleError("no sample is good enough")

    with pytest.raises(BadSampleError, match=r"no sample is good enough.*100 drawn in its place"):
        next(batches_of(make_loader(shards, "threads", maps=(refuse,))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_copies_to_the_device_are_whole_although_memory_is_used_again(shards: Path, kind: str):
    expected = reference(shards, 50)
    device = torch.device("cuda")
    moved = []
    batches = batches_of(make_loader(shards, kind))
    for _ in range(50):
        batch = next(batches)
        assert batch.images.is_pinned()
        moved.append(batch.to(device))
    assert [content(batch.to(torch.device("cpu"))) for batch in moved] == expected
