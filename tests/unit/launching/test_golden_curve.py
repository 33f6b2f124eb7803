import json
from pathlib import Path

import pytest

from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

GOLDEN = Path(__file__).parents[2] / "golden" / "nano_vit_losses.txt"
RUN = """
output = "none"
global_batch_size = 32
precision = "fp64"
device = "cpu"
length = { steps = 20 }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt", "json:captions"]
workers = 0
[model]
arch = "nano-vit-32"
[optimizer]
lr = 2e-3
"""


def test_loss_curve_is_the_recorded_one(tmp_path: Path):
    """A change that means to alter no number must leave this file alone; one that does shows the new curve beside it."""
    (tmp_path / "run.toml").write_text(RUN)
    folder = train(load_run_config(tmp_path / "run.toml", ["--output", str(tmp_path / "run")]))
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    recorded = [line.split() for line in GOLDEN.read_text().splitlines()]
    assert [line["ids"] for line in lines] == [ids for ids, _ in recorded]
    assert [float(line["loss"]) for line in lines] == pytest.approx([float(loss) for _, loss in recorded], rel=1e-7)
