"""Fine-tuning on a device in bf16: adapters, features of a locked tower, a teacher, and what each run leaves behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmclip.release import load
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

STEPS = 8
TEXTS = ("a red apple", "two dogs", "the moon at night")


def run_to(folder: Path, *flags: str, resume: bool = False) -> list[dict]:
    run_file = folder.parent / f"{folder.name}.toml"
    run_file.write_text(
        f"""
output = "{folder}"
global_batch_size = 64
length = {{ steps = {STEPS} }}
log_every_steps = 1
checkpoint = {{ every_steps = 4, keep = 2 }}
precision = "bf16"
[model]
init = "{folder.parent / "start"}"
[optimizer]
lr = 0.003
[data]
source = {{ type = "tars", shards = "embedded:emoji/train-noto.tar" }}
captions = ["txt"]
workers = 2
loader = "threads"
[evaluation]
report = false
"""
    )
    train(load_run_config(run_file, list(flags)), resume=resume)
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that the others begin with."""
    folder = tmp_path_factory.mktemp("finetune") / "start"
    run_file = folder.parent / "start.toml"
    run_file.write_text(
        f"""
output = "{folder}"
global_batch_size = 64
length = {{ steps = 2 }}
model = {{ arch = "tiny-vit-64" }}
data = {{ source = {{ type = "tars", shards = "embedded:emoji/train-noto.tar" }}, captions = ["txt"], workers = 0 }}
evaluation = {{ report = false }}
"""
    )
    train(load_run_config(run_file))
    return folder


def loses(lines: list[dict]) -> None:
    assert len(lines) == STEPS
    assert float(lines[-1]["loss"]) < float(lines[0]["loss"])


def test_adapters_train_resume_with_the_same_bits_and_leave_plain_weights(start: Path):
    pytest.importorskip("peft", reason="adapters need mmclip[lora]")
    whole = run_to(start.parent / "whole", "--towers.lora.rank", "4")
    loses(whole)
    cut = start.parent / "cut"
    run_to(cut, "--towers.lora.rank", "4")
    shutil.rmtree(cut / "checkpoints" / f"step-{STEPS:08d}")
    assert run_to(cut, "--towers.lora.rank", "4", resume=True) == whole
    before, after = load(start), load(start.parent / "whole", "cuda")
    assert after.state_dict().keys() == before.state_dict().keys()
    moved = after.embed_texts(TEXTS).cpu() - before.embed_texts(TEXTS)
    assert 1e-4 < float(moved.abs().max()) < 2


def test_text_tower_learns_over_features_of_a_locked_image_tower(start: Path):
    features = start.parent / "features"
    lines = run_to(start.parent / "lit", "--towers.lock_image", "True", "--image_features", str(features))
    loses(lines)
    before, after = load(start), load(start.parent / "lit")
    visual = before.backbone.visual.state_dict()
    assert all(torch.equal(tensor, visual[name]) for name, tensor in after.backbone.visual.state_dict().items())


def test_student_learns_from_a_teacher(start: Path):
    flags = ("--objective.type", "distill", "--objective.teacher", str(start), "--length.steps", "60")
    lines = run_to(start.parent / "student", *flags, "--optimizer.lr", "0.001")
    losses = [float(line["loss"]) for line in lines]
    assert sum(losses[-10:]) < sum(losses[:10])
