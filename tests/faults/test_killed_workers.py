"""A whole run whose loader processes are killed at five points, as a machine short of memory would: nothing differs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 12
RUN = """
global_batch_size = 16
log_every_steps = 1
output = "none"
length = { steps = 12 }
precision = "fp32"
evaluation = { report = false }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt", "json:captions"]
prefetch_batches = 1
restarts = 5
workers = 2
[model]
arch = "nano-vit-32"
"""


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    run_file = folder.with_suffix(".toml")
    run_file.write_text(RUN)
    command = [sys.executable, "-m", "mmclip_launch.train", str(run_file), "--output", str(folder), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(child: subprocess.Popen[str]) -> str:
    output, _ = child.communicate()
    assert child.returncode == 0, output
    return output


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def kill_a_loader_process(child: subprocess.Popen[str]) -> None:
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    if listed:
        os.kill(int(listed[0]), signal.SIGKILL)


@pytest.mark.slow
def test_the_ledger_is_that_of_an_undisturbed_run(tmp_path: Path):
    finish(start(tmp_path / "calm", "--data.workers", "0"))
    child = start(tmp_path / "killed")
    for step in (1, 3, 5, 7, 9):
        while steps_done(tmp_path / "killed") < step and child.poll() is None:
            time.sleep(0.005)
        kill_a_loader_process(child)
    output = finish(child)
    assert "starting its loader processes again at sample" in output
    ledgers = [(tmp_path / name / "ledger.jsonl").read_text() for name in ("calm", "killed")]
    assert ledgers[0] == ledgers[1]
    assert steps_done(tmp_path / "killed") == STEPS
