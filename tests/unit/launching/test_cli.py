import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmclip_launch.cli import VERBS, dispatch, run_verb

BIN = Path(sys.executable).parent
HEAVY = ("torch", "open_clip", "transformers", "numpy", "pydantic", "tyro")


def mmclip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "mmclip"), *arguments], capture_output=True, text=True, check=False)


def verb(command: str) -> int:
    """The exit code of what `mmclip COMMAND` runs, in this process."""
    return run_verb(dispatch, command.split())


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = "import sys; sys.argv = ['mmclip', '--help']\ntry:\n    from mmclip_launch.cli import main; main()\n"
    code += f"except SystemExit as stop:\n    print(stop.code, [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_unknown_verb_names_the_nearest():
    done = mmclip("trian")
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mmclip_launch.cli", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr


def test_no_verb_is_a_mistake_that_shows_the_verbs():
    done = mmclip()
    assert done.returncode == 2
    assert "verbs:" in done.stdout


RUN = """
output = "{folder}/run"
global_batch_size = 4
length = {{ steps = 2 }}
[data]
workers = 0
source = {source}
[model]
arch = "nano-vit-32"
{more}
"""
SYNTHETIC = '{ type = "synthetic", image_size = 32, samples = 64 }'
MISTAKES = {
    "wrong path": ('{ type = "tars", shards = "nowhere/*.tar" }', "", "nothing at nowhere"),
    "unknown preset": (
        SYNTHETIC,
        "logit_scale = 10\n[optimizer]\nlrr = 1",
        "optimizer.lrr: unknown key; did you mean 'lr'",
    ),
    "unknown weights": (SYNTHETIC, 'init = "runs/nothing"', "runs/nothing is no folder"),
    "bias without use": (SYNTHETIC, "logit_bias = -10.0", "objective 'clip' has no bias"),
    "long warmup": (
        SYNTHETIC,
        "[schedule]\nwarmup_samples = 100",
        "warmup_samples=100 must be less than the 8 samples",
    ),
}


@pytest.mark.parametrize(("source", "more", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_message_and_code_2(
    source: str, more: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from mmclip_launch.train import main

    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, source=source, more=more))
    assert run_verb(main, [str(tmp_path / "run.toml")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_synthetic_run_trains_and_its_folder_has_the_promised_files(tmp_path: Path):
    from mmclip_launch.train import main

    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, source=SYNTHETIC, more=""))
    assert run_verb(main, [str(tmp_path / "run.toml"), "--objective.type", "siglip", "--precision", "fp32"]) == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.toml",
        "leases",
        "ledger.jsonl",
        "metrics.jsonl",
        "report",
    }
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    assert last["samples_seen"] == 8
    assert {"train/loss", "train/learning_rate", "train/samples_per_second", "train/data_wait_fraction"} <= set(last)


def test_folder_of_pictures_becomes_shards_that_train_and_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            noise = rng.integers(-20, 20, (40, 40, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    assert verb("shards make folder --source pictures --output data") == 0
    (tar,) = (tmp_path / "data" / "train").glob("*.tar")
    index = tar.with_name(tar.name + ".mmidx")
    before = index.read_bytes()
    index.unlink()
    assert verb(f"shards index {tar}") == 0
    assert index.read_bytes() == before
    source = f'{{ type = "tars", shards = "{tmp_path}/data/train" }}'
    more = f'[[evaluation.datasets]]\nname = "colours"\npath = "{tmp_path}/data"\nsplit = "train"\ntemplates = "none"\n'
    text = (
        RUN.format(folder=tmp_path, source=source, more=more)
        .replace("size = 4", "size = 12")
        .replace("steps = 2", "steps = 12")
    )
    (tmp_path / "run.toml").write_text(text + "[optimizer]\nlr = 2e-3\n")
    assert verb("train run.toml --precision fp32") == 0
    (result,) = (tmp_path / "run" / "results").glob("*.json")
    scores = json.loads(result.read_text())
    assert scores["n_seen"] == 24
    assert scores["metrics"]["acc1"] > 0.9
    assert scores["chance"]["acc1"] == 0.5
    assert verb("eval run --output elsewhere") == 0
    assert json.loads((tmp_path / "elsewhere" / result.name).read_text())["metrics"] == scores["metrics"]
    assert verb("eval run --dataset again=data --split train --output third") == 0
    assert len(list((tmp_path / "third").glob("*.json"))) == 1
    capsys.readouterr()
    assert verb("eval run --dataset nothing/here") == 2
    assert "nothing/here" in capsys.readouterr().err
