"""A change of the picture size makes the data-parallel wrapper anew: gradients after it are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("resolution_worker.py")
RUN = """
output = "unused"
global_batch_size = 8
precision = "fp64"
device = "cpu"
length = { steps = 4 }
resolution = [{ size = 16, until = 0.5 }]
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""


@pytest.mark.slow
def test_two_ranks_change_their_size_as_one_process_does(tmp_path: Path):
    (tmp_path / "run.toml").write_text(RUN)
    found = []
    for ranks in (1, 2):
        answer = tmp_path / f"{ranks}.safetensors"
        command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", str(ranks)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(WORKER), str(tmp_path / "run.toml"), str(answer)],
            capture_output=True, text=True, env=env, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(load_file(answer))
    one, two = found
    assert one.keys() == two.keys()
    for name, expected in one.items():
        tolerance = 1e-9 if not name.startswith("weight.") else 1e-7  # AdamW divides by gradients near its eps
        torch.testing.assert_close(two[name], expected, rtol=tolerance, atol=1e-10, msg=name)
