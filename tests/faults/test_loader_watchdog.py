"""Loader processes that die are started again without a trace in the data; those that hang are named."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import MachineError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import SyntheticConfig
from mmclip_data.loading.watchdog import WorkerDied, name_places, wait_for

HANGS = "synthetic/0/000000011"


def make_loader(say: Any, maps: tuple = (), rank: int = 0, **settings: Any) -> TrainLoader:
    source = SyntheticConfig(samples=64, image_size=8)
    config = DataConfig(source=source, **{"workers": 2, "prefetch_batches": 1, **settings})
    tokenize = lambda captions: torch.ones(len(captions), 4, dtype=torch.int64)  # noqa: E731
    return TrainLoader(config, ImageSpec(size=(8, 8)), tokenize, Layout(8, rank, 2), 0, maps, say)


def facts(batch: ImageTextBatch) -> tuple[Any, ...]:
    return batch.ids, batch.images.numpy().tobytes(), batch.keys.tolist(), batch.position


def kill_one() -> None:
    """Kill the first loader process, and wait until it is gone."""
    child = min((child for child in multiprocessing.active_children()), key=lambda child: child.pid or 0)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()


@pytest.mark.slow
def test_batches_are_the_same_when_loader_processes_are_killed_at_five_points():
    unbroken = make_loader(print, workers=0).batches(DataPosition(16))
    expected = [facts(next(unbroken)) for _ in range(14)]
    said: list[str] = []
    batches = make_loader(said.append, restarts=5).batches(DataPosition(16))
    got = []
    for number in range(14):
        if number in (1, 3, 6, 7, 11):
            kill_one()
        got.append(facts(next(batches)))
    assert got == expected
    assert 1 <= len(said) <= 5
    assert all("rank 0 (process" in line and "starting its loader processes again at sample" in line for line in said)


def test_the_last_death_is_an_error_that_names_what_each_process_was_at():
    batches = make_loader(lambda line: None, restarts=1).batches(DataPosition(0))
    next(batches)
    kill_all()
    with pytest.raises(WorkerDied, match=r"exited unexpectedly.*worker \d has been at synthetic/0/\d+ for"):
        take_and_kill(batches)


def take_and_kill(batches: Iterator[ImageTextBatch]) -> None:
    for _ in range(50):
        next(batches)
        kill_all()


def kill_all() -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()


@pytest.mark.parametrize("loader", [pytest.param("processes", marks=pytest.mark.slow), "threads"])
def test_a_hanging_sample_is_named_before_the_run_ends(loader: str):
    released = threading.Event()

    def hang(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__id__"] == HANGS:
            released.wait()
        return sample

    said: list[str] = []
    plan = make_loader(print, workers=0, maps=())
    place = next(p for p in range(64) if plan.source.sample_id(*plan.plan.locate(p)) == HANGS)
    rank = place_rank(plan, place)
    batches = make_loader(said.append, (hang,), rank, loader=loader, timeout_seconds=2).batches(DataPosition(0))
    try:
        with pytest.raises(
            MachineError, match=rf"rank {rank}: no batch within .* = 2; .*worker \d has been at {HANGS}"
        ):
            list(islice(batches, 8))
    finally:
        released.set()
    assert len(said) == 1
    assert f"has been at {HANGS} for" in said[0]
    assert "the run ends after 2 s" in said[0]


def place_rank(loader: TrainLoader, position: int) -> int:
    start = position - position % 8
    return 0 if position in loader.plan.rank_slice(start, 8, 0, 2).tolist() else 1


def test_a_batch_that_comes_late_is_told_once_and_then_taken(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def attempt(seconds: float) -> str:
        now[0] += 1
        if now[0] < 90:
            raise TimeoutError
        return "a batch"

    said: list[str] = []
    assert wait_for(attempt, 300, 7, lambda: "worker 0 has been at a/b/c for 29 s", said.append) == "a batch"
    assert said == ["rank 7: no batch for 30 s; worker 0 has been at a/b/c for 29 s; the run ends after 300 s"]


def test_a_pause_of_the_whole_process_is_not_taken_for_a_loader_that_hangs(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def attempt(seconds: float) -> str:
        now[0] += 3600
        if now[0] < 5 * 3600:
            raise TimeoutError
        return "a batch"

    assert wait_for(attempt, 300, 0, str, lambda line: pytest.fail(line)) == "a batch"


def test_who_is_at_it_longest_is_told_first():
    told = name_places([(0, 5, 1.0), (1, 9, 40.0)], lambda position: f"a/b/{position}")
    assert told == "worker 1 has been at a/b/9 for 40 s, worker 0 has been at a/b/5 for 1 s"
    assert name_places([], str) == "no worker has begun a sample"


def test_the_death_of_a_loader_process_does_not_interrupt_the_training_step(tmp_path: Path):
    """torch's own handler would raise here, wherever the training process happens to be."""
    batches = make_loader(lambda line: None).batches(DataPosition(0))
    next(batches)
    kill_one()
    for _ in range(1000):
        sum(range(100))
    next(batches)
