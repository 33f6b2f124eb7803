import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("kill and resume")  # one worker makes what the tests share, once

STEPS = 12
RUN = """
global_batch_size = 16
channels_last = true
log_every_steps = 1
output = "none"
length = { steps = 12 }
checkpoint = { every_steps = 3, keep = 2 }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt", "json:captions"]
augment = { crop_area = [0.5, 1.0], brightness = 0.3 }
workers = 1
[model]
arch = "tiny-resnet-32"
"""


@pytest.fixture
def start(train: Callable[..., Any]) -> Callable[..., Any]:
    def with_file(folder: Path, *flags: str) -> Any:
        run_file = folder.with_suffix(".toml")
        run_file.write_text(RUN)
        return train(str(run_file), "--output", str(folder), *flags)

    return with_file


def finish(child: Any) -> str:
    assert child.wait() == 0, child.said()
    return child.said()


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def kill_after(child: Any, folder: Path, steps: int) -> None:
    while steps_done(folder) < steps:
        assert child.poll() is None, child.said()
        time.sleep(0.005)
    child.kill()


def final_weights(folder: Path) -> dict[str, str]:
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    return {
        name: hashlib.sha256((last / name).read_bytes()).hexdigest()
        for name in ("open_clip_model.safetensors", "optimizer.safetensors")
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By an interpreter of its own: another one also hashes strings otherwise, and no order may hang on that."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    (folder.parent / "run.toml").write_text(RUN)
    command = [sys.executable, "-m", "mmclip_launch.train", str(folder.parent / "run.toml"), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    "kills", [(1, 8), pytest.param((2, 3, 5, 6, 10, 11), marks=pytest.mark.slow)], ids=["two kills", "six kills"]
)
def test_killed_and_resumed_run_ends_with_the_same_weights(
    kills: tuple[int, ...], start: Callable[..., Any], unbroken: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    for number, step in enumerate(kills):
        kill_after(start(folder, *(["--resume"] if number else [])), folder, step)
    finish(start(folder, "--resume"))
    assert final_weights(folder) == final_weights(unbroken)
    assert (folder / "ledger.jsonl").read_text() == (unbroken / "ledger.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "latest",
        "step-00000009",
        "step-00000012",
    ]


def test_damaged_newest_checkpoint_is_skipped_and_said(start: Callable[..., Any], unbroken: Path, tmp_path: Path):
    folder = tmp_path / "run"
    kill_after(start(folder), folder, 10)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    weights = newest / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    output = finish(start(folder, "--resume"))
    assert f"{weights}: its SHA-256 differs" in output.replace("\n", " ")
    assert final_weights(folder) == final_weights(unbroken)


def test_resume_with_other_settings_is_refused_by_name(start: Callable[..., Any], unbroken: Path):
    child = start(unbroken, "--resume", "--optimizer.lr", "0.01", "--log_every_steps", "2")
    assert child.wait() == 2
    assert "optimizer.lr: 0.0005 -> 0.01" in child.said()
    assert "log_every_steps" not in child.said()


def test_a_folder_that_holds_a_run_is_not_overwritten(start: Callable[..., Any], unbroken: Path):
    before = final_weights(unbroken)
    child = start(unbroken)
    assert child.wait() == 2
    assert "already holds a run: continue it with --resume" in child.said()
    assert final_weights(unbroken) == before
