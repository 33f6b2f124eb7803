"""A whole run on a device: shards, loader threads, pinned batches, bf16, evaluation, checkpoint, and a resume."""

import json
import shutil
from pathlib import Path

import torch

from mmclip_launch.evaluate import main as evaluate
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

STEPS = 8


def run_to(folder: Path, *flags: str, resume: bool = False) -> list[dict]:
    run_file = folder.parent / "run.toml"
    run_file.write_text(
        f"""
output = "{folder}"
global_batch_size = 64
length = {{ steps = {STEPS} }}
log_every_steps = 1
checkpoint = {{ every_steps = 4, keep = 2 }}
model = {{ arch = "tiny-vit-64" }}
[data]
source = {{ type = "tars", shards = "embedded:emoji/train-noto.tar" }}
captions = ["txt"]
workers = 2
loader = "threads"
[[evaluation.datasets]]
name = "seen"
path = "embedded:emoji/unseen-style-fluent.tar"
label = "json:name"
templates = "emoji"
"""
    )
    train(load_run_config(run_file, list(flags)), resume=resume)
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def test_run_trains_and_resumes_with_the_same_bits(tmp_path: Path):
    whole = run_to(tmp_path / "whole", "--precision", "bf16")
    assert len(whole) == STEPS
    cut = tmp_path / "cut"
    run_to(cut, "--precision", "bf16")
    shutil.rmtree(cut / "checkpoints" / f"step-{STEPS:08d}")
    assert run_to(cut, "--precision", "bf16", resume=True) == whole


def test_run_with_fp16_compiled_blocks_and_micro_batches(tmp_path: Path):
    lines = run_to(
        tmp_path / "half", "--precision", "fp16", "--towers.compile", "True", "--accumulation.micro_batch_size", "32"
    )
    assert len(lines) == STEPS
    assert float(lines[-1]["loss"]) < float(lines[0]["loss"])


def test_evaluation_on_a_device_is_that_on_the_cpu(tmp_path: Path):
    folder = tmp_path / "run"
    run_to(folder)
    figures = {}
    for device in ("cpu", "cuda"):
        evaluate([str(folder), "--device", device, "--output", str(tmp_path / device), "--no-report"])
        (path,) = (tmp_path / device).glob("*.json")
        figures[device] = json.loads(path.read_text())
    assert figures["cuda"]["device"].startswith("cuda")
    assert torch.cuda.is_available()
    for name, value in figures["cpu"]["metrics"].items():
        assert abs(figures["cuda"]["metrics"][name] - value) < 0.01, name
