"""A number that is none, met by one rank: every rank leaves out the same step, and its samples are written down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("nan_worker.py")
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
BAD_STEP, BAD_RANK = 3, 1
RUN = """
output = "unused"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = { steps = 5 }
log_every_steps = 2
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
model = { arch = "nano-vit-32" }
evaluation = { report = false }
"""


def test_both_ranks_skip_the_step_and_say_which_samples(tmp_path: Path):
    (tmp_path / "run.toml").write_text(RUN)
    command = [*TORCHRUN, str(WORKER), str(tmp_path / "run.toml"), str(tmp_path / "run"), str(BAD_STEP), str(BAD_RANK)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = {
        (step, rank): load_file(tmp_path / f"run-weights-{step}-{rank}.safetensors")
        for step in range(1, 5)
        for rank in range(2)
    }
    for step in range(1, 5):
        assert all(torch.equal(tensor, weights[step, 1][name]) for name, tensor in weights[step, 0].items())
        changed = step == 1 or any(
            not torch.equal(tensor, weights[step - 1, 0][name]) for name, tensor in weights[step, 0].items()
        )
        assert changed == (step != BAD_STEP)
    entries = [json.loads((tmp_path / "run" / f"skipped.jsonl.rank{rank}").read_text()) for rank in range(2)]
    assert [entry["step"] for entry in entries] == [BAD_STEP] * 2
    assert len({name for entry in entries for name in entry["ids"]}) == 8
    assert entries[0]["not_finite"] == []
    assert entries[BAD_RANK]["not_finite"] == [entries[BAD_RANK]["ids"][1]]
    assert f"step {BAD_STEP}: loss nan" in done.stderr
    assert entries[BAD_RANK]["not_finite"][0] in done.stderr, "the rank that met it names it"
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/skipped_steps"] == 1
