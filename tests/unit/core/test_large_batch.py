"""The batch is a choice, not a limit of memory: 32,768 pairs take little more than the 256 that are encoded at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("large_batch_worker.py")
EMBED = 32


def step(samples: int, micro: int) -> dict[str, float]:
    command = [sys.executable, str(WORKER), str(samples), str(micro)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process")
def test_a_large_batch_takes_the_memory_of_a_micro_batch_and_of_its_features():
    whole, pieces = step(4096, 4096), step(4096, 256)
    assert pieces["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert pieces["norm"] == pytest.approx(whole["norm"], rel=1e-4)
    assert pieces["mib"] < whole["mib"] / 5
    one, large = step(256, 256), step(32768, 256)
    features = 2 * 32768 * EMBED * 4 / 2**20
    # The features of both towers, their gradients, and what the loss and the joining hold of each for a while.
    assert large["mib"] < one["mib"] + 10 * features
    logits = 32768**2 * 4 / 2**20
    assert large["mib"] < logits / 25
