"""An S3 on this machine behind a proxy that fails as stores fail: the epoch is the one of the disk, or the run says why not.

moto answers as S3 does; the proxy before it puts 403, 500 and 503, stalls, cut and dropped answers at seeded places.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
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
from mmclip_data.shards import index_shards
from mmclip_data.stores import CacheConfig, NotFoundError, RemoteShard, expand_places, open_indexes
from mmclip_data.stores.reader import is_sound
from mmclip_data.testing.shard_faults import make_shard
from mmclip_data.testing.store_faults import FaultyServer, Request, SeededFaults, serving

pytestmark = pytest.mark.xdist_group("s3")
BIN = Path(sys.executable).parent
SHARDS, SAMPLES = 6, 12
BATCH = 12
STEPS_AN_EPOCH = SHARDS * SAMPLES // BATCH
SHARD_BYTES = len(make_shard(SAMPLES, 0).raw)


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards with their indexes, as files."""
    folder = tmp_path_factory.mktemp("disk")
    for number in range(SHARDS):
        (folder / f"{number}.tar").write_bytes(make_shard(SAMPLES, number).raw)
    assert not [done.error for done in index_shards(sorted(folder.glob("*.tar"))) if done.error]
    return folder


@pytest.fixture(scope="session")
def moto() -> Iterator[tuple[str, int]]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def proxy(moto: tuple[str, int], disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The proxy, and the environment that leads to it; the bucket `data` holds the shards."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with serving(FaultyServer(upstream=moto)) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        s3 = fsspec.filesystem("s3", skip_instance_cache=True)
        if not s3.exists("data"):
            s3.mkdir("data")
            for path in disk.iterdir():
                s3.pipe_file(f"data/train/{path.name}", path.read_bytes())
        server.requests.clear()
        yield server


def make_loader(
    shards: str, folder: Path | None = None, workers: int = 0, loader: str = "threads", **cache: Any
) -> TrainLoader:
    settings = CacheConfig(
        folder=str(folder), **{"idle_seconds": 1.0, "retry_seconds": 60.0, "look_ahead_bytes": 60_000, **cache}
    )
    config = DataConfig(
        source=IndexedTarsConfig(shards=shards, cache=settings),
        augment=AugmentConfig(crop_area=(0.4, 1.0), flip=0.5),
        plan=PlanConfig(window=9),
        workers=workers,
        loader=loader,  # type: ignore[arg-type]
    )
    return TrainLoader(config, ImageSpec(size=(16, 16)), Tokenizer({"context_length": 12}), Layout(BATCH), seed=3)


def take(loader: TrainLoader, start: int = 0, count: int = 2 * STEPS_AN_EPOCH) -> list[tuple[Any, ...]]:
    """Ids, captions and pixels of `count` batches, and what was replaced."""
    batches = loader.batches(DataPosition(start * BATCH))
    return [seen(next(batches)) for _ in range(count)]


def seen(batch: ImageTextBatch) -> tuple[Any, ...]:
    pixels = batch.images.contiguous().numpy().tobytes()
    return batch.ids, batch.tokens.numpy().tobytes(), pixels, batch.replaced


@pytest.fixture(scope="session")
def expected(disk: Path) -> list[tuple[Any, ...]]:
    batches = take(make_loader(str(disk)))
    assert len({name for ids, *_ in batches[:STEPS_AN_EPOCH] for name in ids}) == SHARDS * SAMPLES
    return batches


@pytest.mark.parametrize(
    ("mode", "workers", "loader"), [("auto", 0, "threads"), ("download", 2, "threads"), ("range", 2, "processes")]
)
def test_without_faults_a_run_on_s3_is_the_run_on_the_disk(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any], mode: str, workers: int, loader: str
):
    assert take(make_loader("s3://data/train", tmp_path, workers, loader, mode=mode)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_an_epoch_with_faults_is_complete_and_in_the_same_order(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any], seed: int
):
    mode, (workers, kind) = (
        ("auto", "download", "range")[seed % 3],
        ((0, "threads"), (2, "threads"), (2, "processes"))[seed // 3 % 3],
    )
    proxy.choose = SeededFaults(seed)
    assert take(make_loader("s3://data/train", tmp_path, workers, kind, mode=mode)) == expected
    assert sum(proxy.faults.values()) >= 3, "the test has tested something"


def test_some_faults_in_every_push(proxy: FaultyServer, tmp_path: Path, expected: list[Any]):
    proxy.choose = SeededFaults(0, kinds=("500", "503", "403", "short", "drop"))
    assert take(make_loader("s3://data/train/{0..5}.tar", tmp_path, 2, mode="auto")) == expected
    assert sum(proxy.faults.values()) >= 3


def test_a_cache_smaller_than_the_working_set_is_exact_and_stays_small(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any]
):
    room = 2 * SHARD_BYTES + SHARD_BYTES // 2
    for mode in ("download", "auto"):
        loader = make_loader("s3://data/train", tmp_path / mode, 2, mode=mode, max_bytes=room)
        batches = loader.batches(DataPosition(0))
        for step in range(2 * STEPS_AN_EPOCH):
            assert seen(next(batches)) == expected[step]
            assert cache_bytes(tmp_path / mode) <= room
        assert len({request.path for request in downloads(proxy)}) == SHARDS, "the cache was in use"
    assert take(make_loader("s3://data/train", tmp_path / "none", mode="auto", max_bytes=0), count=3) == expected[:3]


def test_an_object_that_goes_away_stops_the_run_which_then_resumes_in_the_same_order(
    proxy: FaultyServer, tmp_path: Path, expected: list[Any]
):
    loader = make_loader("s3://data/train", tmp_path, mode="range", look_ahead_bytes=0)
    batches = loader.batches(DataPosition(0))
    assert [seen(next(batches)) for _ in range(2)] == expected[:2]
    proxy.choose = lambda request: "404" if request.path.partition("?")[0].endswith(".tar") else None
    with pytest.raises(NotFoundError, match=r"s3://data/train/\d\.tar: no such object \(404\)"):
        next(batches)
    proxy.choose = lambda request: None
    rest = take(make_loader("s3://data/train", tmp_path), start=2, count=len(expected) - 2)
    assert rest == expected[2:], "no sample was replaced, and none was skipped"


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
        if request.method == "GET"
        and request.path.endswith(".tar")
        and (request.span or (0, 0))[1] >= SHARD_BYTES // 2
        and (request.span or (1, 0))[0] == 0
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
    proxy.choose = lambda request: "stall" if request.method == "GET" and request.path.endswith(".tar") else None
    process = multiprocessing.get_context("spawn").Process(target=_fetch_for_ever, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 60
    while not proxy.faults and time.monotonic() < deadline:
        time.sleep(0.02)
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


# As commands

RUN = """# A very small model on a store.
output = "new"
global_batch_size = 4
precision = "fp32"
length = { steps = 2 }
data = { workers = 0, source = { type = "tars", shards = "%s", cache = { folder = "cache", retry_seconds = 5.0 } } }
evaluation = { report = false }

[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 16, width = 16, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "mmclip"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "fault", "code", "message"),
    [
        ("s3://data/trian", None, 2, "mmclip: shards='s3://data/trian': nothing at s3://data/trian"),
        (
            "s3://data/train/{0..9}.tar",
            None,
            2,
            "nothing at s3://data/train/6.tar and 3 more; nearest in s3://data/train: ",
        ),
        ("s3://no-such-bucket/0.tar", None, 2, "nothing at s3://no-such-bucket/0.tar"),
        (
            "s3://data/train/0.tar",
            "403",
            3,
            "mmclip: s3://data/train/0.tar: forbidden (403); credentials come from AWS_",
        ),
        (
            "http://127.0.0.1:9/0.tar",
            None,
            3,
            "mmclip: http://127.0.0.1:9/0.tar: no answer (Connection refused); given up after",
        ),
        (
            "http://no-such-host.invalid/0.tar",
            None,
            3,
            "no answer (the host has no address: a wrong name, or no network)",
        ),
        ("s3://data/train/0.tar", "500", 3, "mmclip: s3://data/train/0.tar: the store answers 500; given up after"),
        ("hdfs://data/train/0.tar", None, 2, "stores of the kind hdfs:// are not read; expected one of s3://"),
    ],
)
def test_a_mistake_ends_in_seconds_with_one_message(
    proxy: FaultyServer, tmp_path: Path, shards: str, fault: str | None, code: int, message: str
):
    (tmp_path / "run.toml").write_text(RUN % shards)
    proxy.choose = lambda request: fault
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists(), "refused before anything is written"


@pytest.mark.slow
def test_index_train_and_resume_from_a_store_as_commands(proxy: FaultyServer, tmp_path: Path, disk: Path):
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    for number in range(2):
        s3.pipe_file(f"data/fresh/{number}.tar", (disk / f"{number}.tar").read_bytes())
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "home")
    try:
        indexed = command(tmp_path, "shards", "index", "s3://data/fresh")
    finally:
        del os.environ["XDG_CACHE_HOME"]
    assert indexed.returncode == 0, indexed.stderr
    assert f"{2 * SAMPLES} samples in all" in indexed.stdout + indexed.stderr
    (tmp_path / "run.toml").write_text(RUN % "s3://data/fresh")
    proxy.choose = SeededFaults(5, kinds=("500", "503", "short", "drop"))
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == 0, done.stderr
    (tmp_path / "local").mkdir()
    for number in range(2):
        for suffix in ("", ".mmidx"):
            shutil.copy(disk / f"{number}.tar{suffix}", tmp_path / "local")
    (tmp_path / "local.toml").write_text((RUN % "local").replace('"new"', '"same"'))
    assert command(tmp_path, "train", "local.toml").returncode == 0
    for name in ("ledger.jsonl",):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    resumed = command(tmp_path, "train", "run.toml", "--resume", "--data.source.cache.mode", "range")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_an_error_of_the_store_in_the_middle_of_a_run_is_code_3(proxy: FaultyServer, tmp_path: Path):
    text = (
        (RUN % "s3://data/train")
        .replace("steps = 2", "steps = 400")
        .replace("retry_seconds", 'mode = "range", retry_seconds')
    )
    (tmp_path / "run.toml").write_text(text)
    reads = [0]

    def choose(request: Request) -> str | None:
        reads[0] += request.method == "GET" and request.path.endswith(".tar")
        return "403" if reads[0] > 40 else None

    proxy.choose = choose
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == 3, done.stderr
    assert "forbidden (403)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "new").glob("quarantine*")), "no sample was replaced"


def test_torch_is_left_alone(proxy: FaultyServer, tmp_path: Path):
    before = torch.get_rng_state()
    take(make_loader("s3://data/train", tmp_path, mode="range"), count=1)
    assert torch.equal(torch.get_rng_state(), before)
