"""The low-label curve: the same labels for every method, intervals over draws, and all of it on disk and on a page."""

import json
from pathlib import Path

import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.results.low_label import point
from mmclip_launch import finetune
from mmclip_launch.low_label import LOW_LABEL, Draws, read_draws
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

START = """
output = "start"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = { steps = 2 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
evaluation = { report = false }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
FLAGS = (
    *("--data", "embedded:emoji/unseen-concept-noto.tar", "--test", "embedded:emoji/unseen-concept-twemoji.tar"),
    *("--data.labels.place", "json:category", "--data.labels.templates", "simple", "--global_batch_size", "8"),
    *("--precision", "fp32", "--device", "cpu", "--data.workers", "0", "--length.steps", "2"),
)


def test_draws_are_taken_out_of_the_flags():
    words = ["--init", "a", "--shots", "1", "2", "--seeds", "5", "--test", "t.tar", "--seed", "3"]
    assert read_draws(words) == (Draws((1, 2), (5,)), "t.tar", ["--init", "a", "--seed", "3"])
    assert read_draws(["--init", "a"]) == (None, None, ["--init", "a"])
    assert read_draws(["--shots", "4"])[0] == Draws((4,), (0, 1, 2))
    for wrong in (["--shots", "x"], ["--seeds", "1"], ["--shots", "1", "1"], ["--shots", "0"]):
        with pytest.raises(UserError, match="--s"):
            read_draws(wrong)


def test_an_interval_over_draws_is_wider_than_one_of_their_mean():
    one = torch.tensor([True] * 60 + [False] * 40)
    other = torch.tensor([True] * 90 + [False] * 10)
    same, apart = point(1, "a", torch.stack([one, one])), point(1, "a", torch.stack([one, other]))
    assert (same.value, apart.value) == (0.6, 0.75)
    assert apart.high - apart.low > 1.3 * (same.high - same.low)


@pytest.mark.slow
def test_the_curve_is_printed_written_and_drawn_and_a_second_call_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run.toml").write_text(START)
    start = train(load_run_config(tmp_path / "run.toml", ["--output", str(tmp_path / "start")]))
    words = ["few_shot", "--init", str(start), *FLAGS, "--output", str(tmp_path / "curve"), "--shots", "1", "2"]
    finetune.main([*words, "--seeds", "0", "1"])
    table = json.loads((tmp_path / "curve" / LOW_LABEL).read_text())
    assert [(one["shots"], one["method"]) for one in table["points"]] == [
        *((k, name) for k in (1, 2) for name in ("zero-shot", "linear probe")),
        (1, "fine-tuned"),
        (2, "fine-tuned"),
    ]
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in table["points"])
    zero_shot = {one["value"] for one in table["points"] if one["method"] == "zero-shot"}
    assert len(zero_shot) == 1
    assert len(table["drops"]) == 4
    page = (tmp_path / "curve/report/index.html").read_text()
    assert "Few labels" in page
    assert "Accuracy by labels" in page
    assert "fine-tuned" in capsys.readouterr().out
    runs = sorted((tmp_path / "curve").glob("*-labels/draw-*/ledger.jsonl"))
    assert len(runs) == 4
    before = {path: path.read_bytes() for path in runs}
    finetune.main([*words, "--seeds", "0", "1"])
    assert {path: path.read_bytes() for path in runs} == before
    assert json.loads((tmp_path / "curve" / LOW_LABEL).read_text()) == table
