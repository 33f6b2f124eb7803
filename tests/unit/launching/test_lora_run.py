"""A run that trains adapters: what learns, what a checkpoint holds, and that it goes on from the same bits."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from mmclip.release import load
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE
from mmclip.training.checkpoint.contents import ADAPTER_FOLDER, OPTIMIZER_FILE
from mmclip_launch.evaluate import main as evaluate
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 16
precision = "{precision}"
device = "cpu"
length = {{ steps = 4 }}
log_every_steps = 1
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 0 }}
model = {{ arch = "nano-vit-32" }}
checkpoint = {{ every_steps = 2 }}
[optimizer]
lr = 0.02
[towers.lora]
rank = 4
[evaluation]
report = false
every_steps = 2
[[evaluation.datasets]]
name = "names"
path = "embedded:emoji/unseen-concept-twemoji.tar"
label = "json:name"
templates = "emoji"
"""


def run(folder: Path, *flags: str, precision: str = "fp32") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(RUN.format(folder=folder, precision=precision))
    return train(load_run_config(folder / "run.toml", flags))


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*") if source.is_dir() else [source]:
        if path.is_file():
            place = target / path.relative_to(source) if source.is_dir() else target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("lora"), "--ema.decay", "0.5")


def test_adapters_alone_moved_and_a_checkpoint_holds_plain_weights(trained: Path):
    first, last = (trained / "checkpoints" / f"step-{step:08d}" for step in (2, 4))
    bases = [load_file(folder / ADAPTER_FOLDER / "base.safetensors") for folder in (first, last)]
    assert all(torch.equal(bases[0][name], bases[1][name]) for name in bases[0])
    adapters = [load_file(folder / ADAPTER_FOLDER / "adapter_model.safetensors") for folder in (first, last)]
    moved = {name for name, tensor in adapters[0].items() if not torch.equal(tensor, adapters[1][name])}
    assert moved == {name for name in adapters[0] if ".out_proj." not in name}
    state = load_file(last / OPTIMIZER_FILE)
    assert all(".lora_" in name and ".out_proj." not in name for name in state)
    assert len(state) == 3 * len(moved)
    for file in (WEIGHTS_FILE, RAW_WEIGHTS_FILE):
        plain = load_file(last / file)
        changed = {name for name, tensor in plain.items() if not torch.equal(tensor, bases[1][name].view_as(tensor))}
        assert plain.keys() == bases[1].keys()
        assert changed == {name for name in plain if name.endswith("in_proj_weight")}


def test_the_merged_weights_are_base_plus_adapter_and_stock_open_clip_opens_them(trained: Path):
    last = trained / "checkpoints" / "step-00000004"
    base, plain = load_file(last / ADAPTER_FOLDER / "base.safetensors"), load_file(last / RAW_WEIGHTS_FILE)
    adapter = load_file(last / ADAPTER_FOLDER / "adapter_model.safetensors")
    for name in (name for name in plain if name.endswith("in_proj_weight")):
        factors = [adapter[f"base_model.model.{name.removesuffix('in_proj_weight')}lora_{x}.weight"] for x in "BA"]
        assert torch.allclose(plain[name], base[name] + factors[0] @ factors[1], atol=1e-6)
    stock: Any = open_clip.create_model_and_transforms(f"local-dir:{last}")[0]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{last}")
    with torch.no_grad():
        embed = stock.eval().encode_text(tokenizer(["a cat"]), normalize=True)
    assert torch.allclose(embed, load(trained).embed_texts(["a cat"]), atol=1e-5)


def test_a_resumed_run_goes_on_from_the_same_bits(trained: Path, tmp_path: Path):
    again = tmp_path / "run"
    for name in ("config.toml", "ledger.jsonl", "metrics.jsonl", "checkpoints/step-00000002"):
        copy(trained / name, again / name)
    train(load_run_config(trained / "config.toml", ["--output", str(again)]), resume=True)
    files = [WEIGHTS_FILE, RAW_WEIGHTS_FILE, OPTIMIZER_FILE]
    files += [f"{ADAPTER_FOLDER}/{name}.safetensors" for name in ("adapter_model", "average", "base")]
    for name in files:
        here, there = (folder / "checkpoints/step-00000004" / name for folder in (trained, again))
        assert here.read_bytes() == there.read_bytes(), name


def test_scores_while_training_are_those_of_the_saved_weights(trained: Path, tmp_path: Path):
    evaluate([str(trained / "checkpoints/step-00000002"), "--output", str(tmp_path), "--no-report", "--no-cache",
              "--dataset", "names=embedded:emoji/unseen-concept-twemoji.tar", "--label", "json:name",
              "--templates", "emoji"])  # fmt: skip
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    logged = {name: value for line in lines if line["step"] == 2 for name, value in line.items()}
    assert logged["names/acc1"] == result["metrics"]["acc1"]
    assert logged["names/acc5"] == result["metrics"]["acc5"]


def test_the_share_that_learns_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = run(tmp_path, "--length.steps", "1", precision="bf16")
    line = next(line for line in capsys.readouterr().err.splitlines() if "weights learn" in line)
    adapter = load_file(folder / "checkpoints/step-00000001" / ADAPTER_FOLDER / "adapter_model.safetensors")
    learn = sum(tensor.numel() for name, tensor in adapter.items() if ".out_proj." not in name)
    total = sum(tensor.numel() for tensor in load_file(folder / "checkpoints/step-00000001" / WEIGHTS_FILE).values())
    total += sum(tensor.numel() for tensor in adapter.values())
    assert line == f"{learn:,} of {total:,} weights learn ({100 * learn / total:.2f} %), the others rest"
