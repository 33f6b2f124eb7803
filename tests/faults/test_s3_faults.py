"""An S3 on this machine behind a proxy that fails as stores fail: the epoch is the one of the disk, or the run says why not.

moto answers as S3 does; the proxy before it puts 403, 404, 500 and 503, silence, stalls, cut and dropped answers at seeded
places. What the plan will read is fetched ahead all the while, so most faults meet the threads that do so.
"""

import contextlib
import multiprocessing
import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.augment import AugmentConfig
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.plan import PlanConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.stores import (
    CacheConfig,
    ForbiddenError,
    LookAhead,
    NotFoundError,
    RemoteShard,
    ShortBodyError,
    StalledError,
    StoreError,
    UnavailableError,
    expand_places,
    open_indexes,
)
from mmclip_data.stores.reader import is_sound
from mmclip_data.testing.shard_faults import make_shard
from mmclip_data.testing.store_faults import FaultyServer, Request, SeededFaults, wait_until

pytestmark = pytest.mark.xdist_group("s3")
SHARDS, SAMPLES = 4, 12
BATCH = 12
STEPS_AN_EPOCH = SHARDS * SAMPLES // BATCH
STEPS = STEPS_AN_EPOCH + 2
SHARD_BYTES = len(make_shard(SAMPLES, 0).raw)
PASSING = ("500", "503", "mute", "stall", "short", "honest-short", "drop")
"""And 403, once: new credentials are looked for, which takes a quarter of a second each time."""
WAYS = [("auto", 0, "threads"), ("download", 2, "threads"), ("range", 2, "threads"), ("range", 2, "processes")]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer({"context_length": 12})


def make_loader(
    shards: str, folder: Path | None = None, workers: int = 0, loader: str = "threads", **cache: Any
) -> TrainLoader:
    settings = CacheConfig(
        folder=str(folder),
        **{"idle_seconds": 0.5, "retry_seconds": 60.0, "look_ahead_bytes": 20_000, "parallel": 4, **cache},
    )
    config = DataConfig(
        source=IndexedTarsConfig(shards=shards, cache=settings),
        augment=AugmentConfig(crop_area=(0.4, 1.0), flip=0.5),
        plan=PlanConfig(window=9),
        workers=workers,
        loader=loader,  # type: ignore[arg-type]
    )
    return TrainLoader(config, ImageSpec(size=(16, 16)), tokenizer(), Layout(BATCH), seed=3)


def take(loader: TrainLoader, start: int = 0, count: int = STEPS) -> list[tuple[Any, ...]]:
    """Ids, captions and pixels of `count` batches, and what was replaced."""
    batches = loader.batches(DataPosition(start * BATCH))
    return [seen(next(batches)) for _ in range(count)]


def seen(batch: ImageTextBatch) -> tuple[Any, ...]:
    pixels = batch.images.contiguous().numpy().tobytes()
    return batch.ids, batch.tokens.numpy().tobytes(), pixels, batch.replaced


def is_tar(request: Request) -> bool:
    return request.method == "GET" and request.path.partition("?")[0].endswith(".tar")


@pytest.fixture(scope="session")
def expected(disk: Path) -> list[tuple[Any, ...]]:
    batches = take(make_loader(str(disk)))
    assert len({name for ids, *_ in batches[:STEPS_AN_EPOCH] for name in ids}) == SHARDS * SAMPLES
    return batches


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many samples this process got from the look-ahead, and how many shards it was asked to fetch ahead."""
    found = {"samples": 0, "shards": 0}
    take, fetch = LookAhead.take, RemoteShard.fetch

    def counted_take(self: LookAhead, *arguments: Any) -> list[bytes] | None:
        payloads = take(self, *arguments)
        found["samples"] += payloads is not None
        return payloads

    def counted_fetch(self: RemoteShard, wait: bool = True) -> bool:
        found["shards"] += not wait
        return fetch(self, wait)

    monkeypatch.setattr(LookAhead, "take", counted_take)
    monkeypatch.setattr(RemoteShard, "fetch", counted_fetch)
    return found


def test_without_faults_the_store_is_asked_ahead_and_the_run_is_the_one_of_the_disk(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any]
):
    batches = make_loader("s3://data/train", tmp_path, mode="range").batches(DataPosition(0))
    assert seen(next(batches)) == expected[0]
    wait_until(lambda: len(list(filter(is_tar, proxy.requests))) > 2 * BATCH)
    assert [seen(next(batches)) for _ in expected[1:]] == expected[1:]


@pytest.mark.parametrize(("mode", "workers", "loader"), WAYS)
def test_an_epoch_with_faults_of_each_kind_is_complete_and_in_the_same_order(
    proxy: FaultyServer,
    tmp_path: Path,
    expected: list[Any],
    ahead: dict[str, int],
    mode: str,
    workers: int,
    loader: str,
):
    seeded, once = SeededFaults(1, kinds=PASSING, rate=0.4), iter(["403"])
    proxy.choose = lambda request: (is_tar(request) and next(once, None)) or seeded(request)
    assert take(make_loader("s3://data/train/{0..3}.tar", tmp_path, workers, loader, mode=mode)) == expected
    assert len(proxy.faults) >= 3, "the test has tested something"
    if loader == "threads":
        assert ahead["samples"] or mode == "download"
        assert ahead["shards"] or mode == "range"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_an_epoch_with_faults_from_a_seed_is_complete_and_in_the_same_order(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any], seed: int
):
    mode, (workers, kind) = (
        ("auto", "download", "range")[seed % 3],
        ((0, "threads"), (2, "threads"), (2, "processes"))[seed // 3 % 3],
    )
    proxy.choose = SeededFaults(seed, kinds=(*PASSING, "403"))
    assert take(make_loader("s3://data/train", tmp_path, workers, kind, mode=mode)) == expected
    assert sum(proxy.faults.values()) >= 3, "the test has tested something"


@pytest.mark.parametrize(
    ("mode", "fault", "error", "message"),
    [
        ("auto", "404", NotFoundError, r"no such object \(404\)"),
        ("download", "404", NotFoundError, r"no such object \(404\)"),
        ("range", "404", NotFoundError, r"no such object \(404\)"),
        ("auto", "403", ForbiddenError, r"forbidden \(403\); credentials come from AWS_"),
        ("download", "500", UnavailableError, r"the store answers 500"),
        pytest.param("auto", "mute", StalledError, "no byte came for too long", marks=pytest.mark.slow),
        ("range", "stall", StalledError, "no byte came for too long"),
        ("range", "short", ShortBodyError, "the answer ended before all bytes were there"),
        pytest.param("range", "honest-short", ShortBodyError, "the answer ended at byte", marks=pytest.mark.slow),
        ("download", "honest-short", ShortBodyError, "the answer was damaged on its way"),
    ],
)
def test_a_fault_that_stays_stops_the_run_which_then_resumes_in_the_same_order(
    proxy: FaultyServer,
    tmp_path: Path,
    expected: list[Any],
    mode: str,
    fault: str,
    error: type[StoreError],
    message: str,
):
    is_silent = fault in ("mute", "stall")
    loader = make_loader("s3://data/train", tmp_path, 2, mode=mode, idle_seconds=0.5 if is_silent else 20.0)
    (store,) = {reader.tar.store for reader in loader.opened.source.remote_readers}  # type: ignore[attr-defined]
    store.retry.seconds = 0.5  # not before all is open: a slow machine is soon taken for a silent store
    proxy.choose = lambda request: fault if is_tar(request) and (is_silent or "/3.tar" in request.path) else None
    batches = loader.batches(DataPosition(0))
    before: list[Any] = []
    with pytest.raises(error, match=rf"s3://data/train/\d.tar: {message}"):
        before.extend(map(seen, batches))
    assert before == expected[: len(before)], "what it had was handed out"
    proxy.choose, store.retry.seconds = lambda request: None, 60.0
    rest = take(loader, start=len(before), count=2)
    assert rest == expected[len(before) :][:2], "no sample was replaced, and none was skipped"


def test_a_cache_smaller_than_the_working_set_is_exact_and_stays_small(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any]
):
    room = 2 * SHARD_BYTES + SHARD_BYTES // 2
    for mode in ("download", "auto"):
        loader = make_loader("s3://data/train", tmp_path / mode, 2, mode=mode, max_bytes=room)
        batches = loader.batches(DataPosition(0))
        for step in range(STEPS_AN_EPOCH if mode == "download" else 2):
            assert seen(next(batches)) == expected[step]
            assert cache_bytes(tmp_path / mode) <= room
        assert len({request.path for request in downloads(proxy)}) == SHARDS, "the cache was in use"
    assert take(make_loader("s3://data/train", tmp_path / "none", mode="auto", max_bytes=0), count=2) == expected[:2]


def test_a_damaged_file_in_the_cache_is_dropped_and_fetched_again_once(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any]
):
    assert (
        take(make_loader("s3://data/train", tmp_path, mode="download"), count=STEPS_AN_EPOCH)
        == expected[:STEPS_AN_EPOCH]
    )
    files = sorted(tmp_path.glob("*.tar"))
    assert len(files) == SHARDS
    for path in files:
        raw = bytearray(path.read_bytes())
        raw[1024:-1024:97] = bytes(len(raw[1024:-1024:97]))
        path.write_bytes(raw)
    before = len(downloads(proxy))
    assert take(make_loader("s3://data/train", tmp_path, mode="download")) == expected
    assert len(downloads(proxy)) - before <= SHARDS
    by_name = dict(zip([path.name for path in files], [path.read_bytes() for path in files], strict=True))
    sound = [make_shard(SAMPLES, number).raw for number in range(SHARDS)]
    assert sorted(by_name.values()) == sorted(sound)


def cache_bytes(folder: Path) -> int:
    """What the shards take there, whole or on their way."""
    sizes = []
    for path in folder.glob("*-*"):
        with contextlib.suppress(FileNotFoundError):  # let go of in this moment
            sizes.append(path.stat().st_size)
    return sum(sizes)


def downloads(proxy: FaultyServer) -> list[Request]:
    """Whole shards that were asked for."""
    return [
        request
        for request in proxy.requests
        if is_tar(request) and (request.span or (0, 0))[1] >= SHARD_BYTES // 2 and (request.span or (1, 0))[0] == 0
    ]


def _take_in_process(folder: str, report: Any) -> None:
    report.put([ids for ids, *_ in take(make_loader("s3://data/train", Path(folder), 2, mode="download"))])


@pytest.mark.slow
def test_processes_share_a_cache_and_fetch_each_shard_once(proxy: FaultyServer, tmp_path: Path, expected: list[Any]):
    context = multiprocessing.get_context("fork")
    report = context.Queue()
    workers = [context.Process(target=_take_in_process, args=(str(tmp_path), report)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [report.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == [[ids for ids, *_ in expected]] * 3
    assert len(downloads(proxy)) == SHARDS


def _fetch_for_ever(folder: str) -> None:
    (shard,) = expand_places("s3://data/train/0.tar", CacheConfig(folder=folder, idle_seconds=30.0))
    assert isinstance(shard, RemoteShard)
    shard.fetch()


@pytest.mark.slow
def test_a_kill_during_a_download_leaves_no_wrong_file(proxy: FaultyServer, tmp_path: Path, disk: Path):
    proxy.choose = lambda request: "stall" if is_tar(request) else None
    process = multiprocessing.get_context("spawn").Process(target=_fetch_for_ever, args=(str(tmp_path),))
    process.start()
    wait_until(lambda: bool(proxy.faults))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.glob("*.tar")) == []
    proxy.choose = lambda request: None
    (shard,) = expand_places("s3://data/train/0.tar", CacheConfig(folder=str(tmp_path)))
    assert isinstance(shard, RemoteShard)
    assert shard.fetch(), "the lock went with the process"
    (path,) = tmp_path.glob("*.tar")
    assert path.read_bytes() == (disk / "0.tar").read_bytes()
    assert is_sound(open_indexes([shard], None)[0], path)


def test_torch_is_left_alone(proxy: FaultyServer, tmp_path: Path):
    before = torch.get_rng_state()
    take(make_loader("s3://data/train", tmp_path, mode="range"), count=1)
    assert torch.equal(torch.get_rng_state(), before)
