"""A run on two processes under torchrun: signals to one of them, frozen processes, and a launcher that is killed."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmclip.envelope import verify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("signals on ranks")]

STEPS = 32
RUN = f"""
output = "none"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = {{ steps = {STEPS} }}
log_every_steps = 1
checkpoint = {{ every_steps = 1000 }}
evaluation = {{ report = false }}
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 1 }}
model = {{ arch = "nano-vit-32" }}
"""
ENDLESS = ("--length.steps", "100000", "--watchdog.warn_seconds", "3")


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    (tmp_path / "run.toml").write_text(RUN)
    return str(tmp_path / "run.toml")


def weights(folder: Path) -> list[str]:
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    return [
        hashlib.sha256((last / name).read_bytes()).hexdigest()
        for name in ("open_clip_model.safetensors", "optimizer.safetensors")
    ]


def messages(run: Any) -> list[str]:
    return [line for line in run.said().splitlines() if line.startswith("mmclip: ")]


def hangs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "hangs.jsonl").read_text().splitlines()]


def test_a_signal_to_one_rank_stops_both_at_one_step_and_resumed_runs_end_with_the_same_weights(
    launch: Callable[..., Any], run_file: str, tmp_path: Path
):
    calm = launch(tmp_path / "calm", run_file)
    assert calm.process.wait() == 0, calm.said()
    folder, seconds = tmp_path / "run", []
    for name, to in [("SIGTERM", [1]), ("SIGUSR1", [0]), ("SIGTERM", "all")]:
        run = launch(folder, run_file, "--resume")
        before = run.steps()
        run.until(lambda run=run, before=before: run.steps() >= before + 3)
        ranks, everybody = run.ranks(), run.trainers_and_their_children()
        begun = time.monotonic()
        for pid in everybody if to == "all" else [ranks[rank] for rank in to]:
            os.kill(pid, getattr(signal, name))
        run.process.wait()
        seconds.append(time.monotonic() - begun)
        stopped = run.steps()
        assert before < stopped < STEPS
        verify(folder / "checkpoints" / f"step-{stopped:08d}")
        assert max(path.name for path in (folder / "checkpoints").glob("step-*")) == f"step-{stopped:08d}"
        (said,) = messages(run)
        where = " to rank 1" if to == [1] else ""
        assert said == (
            f"mmclip: {name}{where}: stopped at step {stopped} of {STEPS}, whose checkpoint is on disk; `--resume` "
            "continues there"
        )
        assert run.said().count("exitcode  : 75") == 2, run.said()
        assert run.alive(everybody) == []
    assert max(seconds) < 60, "measured on an idle machine: 2 s, torchrun's own end included"
    last = launch(folder, run_file, "--resume")
    assert last.process.wait() == 0, last.said()
    assert weights(folder) == weights(calm.folder)
    assert (folder / "ledger.jsonl").read_text() == (calm.folder / "ledger.jsonl").read_text()


def test_a_launcher_that_is_told_to_end_ends_the_run_in_a_checkpoint(
    launch: Callable[..., Any], run_file: str, tmp_path: Path
):
    run = launch(tmp_path / "run", run_file)
    run.until(lambda: run.steps() >= 3)
    run.process.terminate()
    run.process.wait()
    verify(tmp_path / "run" / "checkpoints" / f"step-{run.steps():08d}")
    assert len(messages(run)) == 1


def test_nobody_outlives_a_launcher_that_is_killed(launch: Callable[..., Any], run_file: str, tmp_path: Path):
    run = launch(tmp_path / "run", run_file, *ENDLESS)
    run.until(lambda: run.steps() >= 3)
    everybody = run.trainers_and_their_children()
    assert len(everybody) >= 4, "two trainers, each with a loader process"
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 5
    while alive := run.alive(everybody):
        assert time.monotonic() < deadline, alive
        time.sleep(0.01)


@pytest.mark.parametrize("frozen", [1, 0])
def test_a_frozen_rank_is_named_and_the_run_goes_on_when_it_answers_again(
    frozen: int, launch: Callable[..., Any], run_file: str, tmp_path: Path
):
    run = launch(tmp_path / "run", run_file, *ENDLESS)
    run.until(lambda: run.steps() >= 3)
    pid = run.ranks()[frozen]
    os.kill(pid, signal.SIGSTOP)
    name = f"alarm: rank {frozen} ("
    took = run.until(lambda: name in run.said())
    assert took < 60, "measured on an idle machine: 4 s with these three, 21 s with the default of twenty"
    assert f", process {pid}) has not answered for 3 s; it was " in run.said()
    assert "in fit" in (run.folder / f"hang.rank{1 - frozen}.txt").read_text()
    assert not (run.folder / f"hang.rank{frozen}.txt").exists()
    steps = run.steps()
    os.kill(pid, signal.SIGCONT)
    run.until(lambda: "answers again" in run.said() and run.steps() > steps + 10)
    first, second, *more = hangs(run.folder)
    assert (first["event"], first["ranks"], second["event"], second["ranks"], more) == (
        "silent",
        [frozen],
        "answers",
        [frozen],
        [],
    )
    assert run.said().count("alarm: ") == 2


def test_a_rank_that_stays_frozen_ends_the_run_for_a_requeue(launch: Callable[..., Any], run_file: str, tmp_path: Path):
    run = launch(tmp_path / "run", run_file, *ENDLESS, "--watchdog.end_seconds", "6")
    run.until(lambda: run.steps() >= 3)
    first, second = run.ranks()
    os.kill(second, signal.SIGSTOP)
    run.until(lambda: run.alive([first]) == [])
    os.kill(second, signal.SIGCONT)  # torchrun's SIGTERM waits for it
    assert run.process.wait() != 0
    assert f"process {second}) does not answer for " in messages(run)[0]
    assert "local_rank: 0" in run.said()
    assert "exitcode  : 75" in run.said()
    assert [line["event"] for line in hangs(run.folder)] == ["silent", "end"]
