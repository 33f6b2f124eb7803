"""Switches of a run that reach its folder: averaging, profile, a resume from open_clip, accumulation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmclip.errors import UserError
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip_launch.evaluate import main as evaluate
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = {{ steps = 6 }}
log_every_steps = 2
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 0 }}
model = {{ arch = "nano-vit-32" }}
checkpoint = {{ every_steps = 3 }}
[evaluation]
report = false
[[evaluation.datasets]]
name = "names"
path = "embedded:emoji/unseen-concept-twemoji.tar"
label = "json:name"
templates = "emoji"
"""


def run(folder: Path, *flags: str) -> Path:
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    return train(load_run_config(folder / "run.toml", flags))


def test_an_average_is_what_is_evaluated_and_saved_and_is_resumed_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = run(tmp_path, "--ema.decay", "0.9")
    last = folder / "checkpoints" / "step-00000006"
    average, raw = load_file(last / "open_clip_model.safetensors"), load_file(last / "raw_weights.safetensors")
    assert average.keys() == raw.keys()
    assert any(not torch.equal(average[name], raw[name]) for name in raw)
    capsys.readouterr()
    for flags, expected in (((), "average of the weights"), (("--raw",), "raw weights")):
        evaluate([str(folder), "--no-report", "--output", str(tmp_path / "scores" / expected), *flags])
        assert expected in capsys.readouterr().err
    scores: list[Any] = [
        json.loads(path.read_text())["checkpoint"]["weights_sha256"] for path in (tmp_path / "scores").rglob("*.json")
    ]
    assert len(set(scores)) == 2
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "run"
    for name in ("config.toml", "ledger.jsonl", "metrics.jsonl", "checkpoints/step-00000003"):
        copy(folder / name, again / name)
    flags = ["--output", str(again)]
    train(load_run_config(folder / "config.toml", flags), resume=True)
    for name in ("open_clip_model", "raw_weights", "optimizer"):
        expected_bytes = (last / f"{name}.safetensors").read_bytes()
        assert (again / "checkpoints/step-00000006" / f"{name}.safetensors").read_bytes() == expected_bytes


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        for path in source.iterdir():
            copy(path, target / path.name)
    else:
        target.write_bytes(source.read_bytes())


def test_a_profile_is_a_trace_and_a_table_and_changes_no_figure(tmp_path: Path):
    folder = run(tmp_path, "--profile.steps", "2", "--profile.after_steps", "1")
    assert json.loads((folder / "profile" / "trace.json").read_text())["traceEvents"]
    table = (folder / "profile" / "flops.txt").read_text()
    assert float(table.split(" steps, ")[1].split(" FLOPs")[0]) > 1e6
    assert "aten::addmm" in table
    (tmp_path / "plain").mkdir()
    plain = run(tmp_path / "plain")
    assert (plain / "ledger.jsonl").read_text() == (folder / "ledger.jsonl").read_text()


def test_a_batch_in_pieces_trains_the_same_run(tmp_path: Path):
    curves = []
    for size in (None, 4):
        (tmp_path / str(size)).mkdir()
        flags = () if size is None else ("--accumulation.micro_batch_size", str(size))
        folder = run(tmp_path / str(size), *flags)
        curves.append([float(json.loads(line)["loss"]) for line in (folder / "ledger.jsonl").read_text().splitlines()])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_a_run_of_open_clip_goes_on(tmp_path: Path):
    torch.manual_seed(1)
    backbone = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False).backbone
    named = list(backbone.named_parameters())
    small = [p for n, p in named if p.ndim < 2 or "ln" in n or "bias" in n]
    optimizer = torch.optim.AdamW(
        [{"params": small}, {"params": [p for _, p in named if p.ndim >= 2 and "ln" not in _]}]
    )
    for _ in range(4):
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    state = {
        name: tensor.reshape(()) if name == "logit_scale" else tensor for name, tensor in backbone.state_dict().items()
    }
    torch.save({"epoch": 1, "state_dict": state, "optimizer": optimizer.state_dict()}, tmp_path / "epoch_1.pt")
    folder = run(tmp_path, "--resume_open_clip", str(tmp_path / "epoch_1.pt"))
    steps = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [5, 6]
    assert steps[0]["samples_seen"] == 5 * 16
    moments = load_file(folder / "checkpoints/step-00000006" / "optimizer.safetensors")
    assert float(moments["step.towers.backbone.logit_scale"]) == 6
    (tmp_path / "short").mkdir()
    with pytest.raises(UserError, match=r"4 steps behind it, and this run has 3 in all"):
        run(tmp_path / "short", "--resume_open_clip", str(tmp_path / "epoch_1.pt"), "--length.steps", "3")
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path / "short", "--resume_open_clip", "nowhere.pt", "--output", str(tmp_path / "other"))
