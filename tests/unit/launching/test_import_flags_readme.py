"""The command lines of open_clip's own README through `mmclip import-flags`, and two steps of training from each."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_launch.cli import run_verb
from mmclip_launch.import_flags import main, run_file, translate
from mmclip_launch.import_flags.command import read_command
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.shards import main as shards
from mmclip_launch.train import main as train

EMOJI = "embedded:emoji/train-*.tar"


def text_of(command: str) -> str:
    return run_file(translate(read_command(command)), "RUN.toml")


def config_of(command: str, folder: Path) -> RunConfig:
    (folder / "run.toml").write_text(text_of(command))
    return load_run_config(folder / "run.toml")


def readme_commands() -> list[str]:
    """The trainer's command lines in open_clip's own README, whole code blocks as somebody copies them."""
    text = str(metadata("open_clip_torch").get_payload())
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for block in blocks if re.search(r"open_clip_train[./]main", block)]


README = ["csv", "torchrun", "multi-node", "slurm", "resume", "coca", "roberta", "eval-local", "eval-hosted"]


def readme(name: str) -> str:
    commands = readme_commands()
    assert len(commands) == len(README)
    return commands[README.index(name)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("csv", (128, 30.0, None, "RN50", 8)),
        ("torchrun", (1280, None, 32 * 10_968_539, "RN50", 4)),
        ("multi-node", (1280, None, 32 * 10_968_539, "RN50", 4)),
        ("slurm", (256 * 128, 32.0, None, "ViT-B-32", 8)),
    ],
)
def test_commands_of_open_clips_readme(name: str, expected: tuple[Any, ...], tmp_path: Path):
    config = config_of(readme(name), tmp_path)
    found = (
        config.global_batch_size,
        config.length.epochs,
        config.length.samples,
        config.model.arch,
        config.data.workers,
    )
    assert found == expected
    assert isinstance(config.data.source, IndexedTarsConfig)


def test_what_would_train_something_else_is_refused_and_every_reason_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match="CoCa model"):
        text_of(readme("coca"))
    with pytest.raises(UserError) as caught:
        text_of(readme("roberta"))
    for reason in ("pipe", "roberta-base's weights"):
        assert reason in str(caught.value)
    assert run_verb(main, [readme("roberta")]) == 2
    assert capsys.readouterr().out == ""


def test_a_command_that_only_evaluates_is_sent_to_eval():
    with pytest.raises(UserError, match=r"mmclip eval open_clip:ViT-B-32-quickgelu/laion400m_e32 --dataset"):
        text_of(readme("eval-hosted"))
    with pytest.raises(UserError, match=r"open_clip:RN101//path/to/checkpoints/epoch_K.pt"):
        text_of(readme("eval-local"))


def train_two_steps(command: str, folder: Path, *more: str) -> Path:
    """Train the imported file with what a laptop needs laid over it: a short run, a small batch, no loader processes.

    No warmup, since it must be shorter than the run; the folder of the run is `folder`.
    """
    config = config_of(command, folder)
    short = ["--length.steps", "2", "--schedule.warmup_samples", "0", "--global_batch_size", "8"]
    lengths = ("samples", "epochs")
    none = [word for name in lengths if getattr(config.length, name) for word in (f"--length.{name}", "None")]
    here = ["--data.workers", "0", "--output", str(folder / "run")]
    train([str(folder / "run.toml"), *none, *short, *here, *more])
    lines = [json.loads(line) for line in (folder / "run" / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert load_run_config(folder / "run" / "config.toml").optimizer == config.optimizer
    return folder / "run"


SHARDS_AND_SIZE = ("--data.source.shards", EMOJI, "--model.arch", "nano-vit-32")
"""Other shards than somebody's CC12M, and a model of a preset's size; everything else comes from the command."""


@pytest.mark.parametrize("name", ["torchrun", "multi-node", "slurm"])
def test_readme_commands_on_shards_train(name: str, tmp_path: Path):
    run = train_two_steps(readme(name), tmp_path, *SHARDS_AND_SIZE)
    assert (run / "tensorboard").is_dir() == (name == "slurm")


def test_readme_command_on_a_csv_trains_after_the_commands_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    colours = ("red", "blue", "green", "white", "black", "navy", "gold", "pink", "grey", "teal")
    for colour in colours:
        Image.new("RGB", (40, 40), colour).save(f"pictures/{colour}.png")
    rows = ["filepath\ttitle", *(f"pictures/{colour}.png\ta {colour} thing" for colour in colours)]
    Path("train_data.csv").write_text("\n".join(rows) + "\n")
    command = readme("csv").replace("/path/to/train_data.csv", "train_data.csv")
    script, make = commands_in(text_of(command))
    subprocess.run(script.replace("python", sys.executable, 1), shell=True, check=True)
    shards(shlex.split(make.replace("PICTURES", "pictures"))[2:])
    run = train_two_steps(command, tmp_path, "--model.arch", "nano-vit-32")
    ids = json.loads((run / "ledger.jsonl").read_text().splitlines()[0])["ids"]
    assert ids


def test_readme_command_that_resumes_goes_on_from_the_checkpoint(tmp_path: Path):
    """Model and data are substituted in the command itself: weights have the size of their model."""
    torch.manual_seed(7)
    towers = TwoTower(model_cfg_of("nano-vit-32")).eval()
    named = list(towers.backbone.named_parameters())
    gains = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for _, p in named if not any(p is gain for gain in gains)]
    optimizer = torch.optim.AdamW([{"params": gains, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}])
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(5):
        optimizer.step()
    state = {f"module.{name}": tensor for name, tensor in towers.backbone.state_dict().items()}
    state["module.logit_scale"] = state["module.logit_scale"].reshape(())
    table = {"epoch": 3, "name": "theirs", "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(table, tmp_path / "epoch_3.pt")
    command = readme("resume").replace("/path/to/checkpoints/epoch_K.pt", f"{tmp_path}/epoch_3.pt --model nano-vit-32")
    command = command.replace("/path/to/train_data.csv", "train.tar")
    config = config_of(command, tmp_path)
    assert config.resume_open_clip == f"{tmp_path}/epoch_3.pt"
    run = train_two_steps(command, tmp_path, "--data.source.shards", EMOJI, "--length.steps", "7")
    steps = [json.loads(line)["step"] for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert steps == [6, 7]


def test_fine_tuning_command_trains(tmp_path: Path):
    """In the style of the README; the folder stands in for a released tag, which a test cannot download."""
    torch.manual_seed(7)
    (tmp_path / "weights").mkdir()
    save_weights(TwoTower(model_cfg_of("nano-vit-32")), tmp_path / "weights")
    command = (
        "python -m open_clip_train.main --train-data 'd/{00..99}.tar' --train-num-samples 50000 --model ViT-B-32 "
        "--pretrained laion2b_s34b_b79k --lr 1e-5 --wd 0.1 --warmup 100 --epochs 3 --batch-size 256 --precision amp_bf16 "
        "--siglip --grad-clip-norm 1.0"
    )
    assert config_of(command, tmp_path).model.init == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    weights = ("--model.init", f"local-dir:{tmp_path}/weights", "--data.source.shards", EMOJI)
    run = train_two_steps(command, tmp_path, *weights)
    assert load(run).logit_bias is not None


def test_gradients_stay_unclipped_as_there(tmp_path: Path):
    """The recorded norm before clipping equals the one after: `inf` is no limit in the step that training uses."""
    limit = config_of(readme("slurm"), tmp_path).optimizer.max_grad_norm
    weight = torch.nn.Parameter(torch.ones(3, 3))
    weight.grad = torch.full((3, 3), 1e6)
    assert limit is not None
    torch.nn.utils.clip_grad_norm_([weight], limit)
    assert torch.equal(weight.grad, torch.full((3, 3), 1e6))


def commands_in(text: str) -> tuple[str, str]:
    """The two commands that make shards of a CSV."""
    lines = [
        line.removeprefix("#   ") for line in text.splitlines() if re.match(r"#   (python|mmclip shards make)", line)
    ]
    return lines[0], lines[1].partition("  #")[0]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_the_caption_files_of_a_csv_are_those_of_its_lines(separator: str, tmp_path: Path):
    rows = [("red.png", "a red 'thing' for $5"), ("blue.png", "something `blue`")]
    lines = [("path", "text"), *((str(tmp_path / name), caption) for name, caption in rows)]
    (tmp_path / "my $data.csv").write_text("".join(f"{separator.join(line)}\n" for line in lines))
    flag = "" if separator == "\t" else "--csv-separator ,"
    command = f"python -m open_clip_train.main --train-data '{tmp_path}/my $data.csv' --csv-img-key path {flag}"
    script, _ = commands_in(text_of(f"{command} --csv-caption-key text --model ViT-B-32"))
    subprocess.run(script.replace("python", sys.executable, 1), shell=True, check=True, cwd=tmp_path)
    assert {name: (tmp_path / name).with_suffix(".txt").read_text() for name, _ in rows} == dict(rows)
