"""A run of one process that is told to end: it saves where it is, exits with code 75, and goes on as if nothing had been."""

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

pytestmark = pytest.mark.xdist_group("signals")  # one worker makes what the tests share, once

STEPS = 40
RUN = f"""
output = "none"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = {{ steps = {STEPS} }}
log_every_steps = 1
checkpoint = {{ every_steps = 1000 }}
evaluation = {{ report = false }}
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 2 }}
model = {{ arch = "nano-vit-32" }}
"""


@pytest.fixture
def start(train: Callable[..., Any]) -> Callable[..., Any]:
    def with_file(folder: Path, *flags: str) -> Any:
        folder.with_suffix(".toml").write_text(RUN)
        return train(str(folder.with_suffix(".toml")), "--output", str(folder), *flags)

    return with_file


@pytest.fixture(scope="module")
def unbroken(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    folder.with_suffix(".toml").write_text(RUN)
    child = train(str(folder.with_suffix(".toml")), "--output", str(folder))
    assert child.wait() == 0, child.said()
    return folder


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def reach(child: Any, folder: Path, steps: int) -> None:
    while steps_done(folder) < steps:
        assert child.poll() is None, child.said()
        time.sleep(0.005)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def weights(folder: Path) -> list[str]:
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    return [
        hashlib.sha256((last / name).read_bytes()).hexdigest()
        for name in ("open_clip_model.safetensors", "optimizer.safetensors")
    ]


def writer_of(pid: int) -> int | None:
    """The process that writes a trainer's checkpoints."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"checkpoint.writer" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, "the process"),
        (signal.SIGUSR1, "its whole group"),
        pytest.param(signal.SIGTERM, "its whole group", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "the process", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    number: signal.Signals, to: str, start: Callable[..., Any], unbroken: Path, tmp_path: Path
):
    """The group holds its loader processes, whom schedulers signal too."""
    folder = tmp_path / "run"
    child = start(folder)
    reach(child, folder, 3)
    (os.kill if to == "the process" else os.killpg)(child.pid, number)
    assert child.wait() == 75, child.said()
    stopped = steps_done(folder)
    assert stopped < STEPS
    assert checkpoints(folder) == [f"step-{stopped:08d}"]
    verify(folder / "checkpoints" / f"step-{stopped:08d}")
    (said,) = [line for line in child.said().splitlines() if line.startswith("mmclip: ")]
    assert said == (
        f"mmclip: {number.name}: stopped at step {stopped} of {STEPS}, whose checkpoint is on disk; `--resume` continues "
        "there"
    )
    assert "starting its loader processes again" not in child.said()
    again = start(folder, "--resume")
    assert again.wait() == 0, again.said()
    assert weights(folder) == weights(unbroken)
    assert (folder / "ledger.jsonl").read_text() == (unbroken / "ledger.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


def test_the_same_signal_again_does_not_wait_for_the_disk(start: Callable[..., Any], tmp_path: Path):
    folder = tmp_path / "run"
    child = start(folder, "--checkpoint.every_steps", "2", "--length.steps", "100000")
    reach(child, folder, 5)
    writer = writer_of(child.pid)
    assert writer is not None
    os.kill(writer, signal.SIGSTOP)  # a disk that does not answer
    try:
        os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.5)
        assert child.poll() is None, "it waits for its checkpoint"
        while child.poll() is None:
            os.kill(child.pid, signal.SIGTERM)
            time.sleep(0.2)
    finally:
        os.kill(writer, signal.SIGKILL)
    assert child.code == 75, child.said()
    assert "mmclip: SIGTERM again, still saving after step" in child.said()
    assert "ended without a checkpoint of this step; `--resume` continues from the last one" in child.said()
    assert checkpoints(folder) != []
