"""A whole run whose loader processes are killed at five points, as a machine short of memory would: nothing differs."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.is_file() else 0


def kill_a_loader_process(child: Any) -> None:
    listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    if listed:
        os.kill(int(listed[0]), signal.SIGKILL)


@pytest.mark.slow
def test_the_ledger_is_that_of_an_undisturbed_run(train: Callable[..., Any], tmp_path: Path):
    (tmp_path / "run.toml").write_text(RUN)
    words = [str(tmp_path / "run.toml"), "--output"]
    calm = train(*words, str(tmp_path / "calm"), "--data.workers", "0")
    assert calm.wait() == 0, calm.said()
    child = train(*words, str(tmp_path / "killed"))
    for step in (1, 3, 5, 7, 9):
        while steps_done(tmp_path / "killed") < step and child.poll() is None:
            time.sleep(0.005)
        kill_a_loader_process(child)
    assert child.wait() == 0, child.said()
    assert "starting its loader processes again at sample" in child.said()
    ledgers = [(tmp_path / name / "ledger.jsonl").read_text() for name in ("calm", "killed")]
    assert ledgers[0] == ledgers[1]
    assert steps_done(tmp_path / "killed") == STEPS
