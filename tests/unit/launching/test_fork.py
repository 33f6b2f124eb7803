"""A fork goes on from a checkpoint of another run, under other settings, and leaves that run alone."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mmclip import load
from mmclip.errors import UserError
from mmclip_launch.report import main as report
from mmclip_launch.run.beginning import fork as forking
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import main, train

RUN = """
output = "run"
global_batch_size = 8
precision = "fp32"
device = "cpu"
log_every_steps = 1
length = { steps = 6 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
checkpoint = { every_steps = 2 }
ema = { decay = 0.9 }
evaluation = { report = false }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
FILES = ("open_clip_model.safetensors", "raw_weights.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fork") / "run.toml"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def first(run_file: Path) -> Path:
    return train(load_run_config(run_file, ["--output", str(run_file.parent / "first")]))


def fork(run_file: Path, source: Path, output: Path, *flags: str, resume: bool = False) -> Path:
    return train(load_run_config(run_file, ["--output", str(output), *flags]), resume=resume, fork=source)


def sums(folder: Path, names: Sequence[str] = FILES) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def steps(run: Path, name: str = "ledger.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (run / name).read_text().splitlines()]


def test_a_fork_with_the_same_settings_is_the_run_itself(run_file: Path, first: Path, tmp_path: Path):
    before = tree(first)
    second = fork(run_file, at(first, 4), tmp_path / "second")
    assert sums(at(second, 6)) == sums(at(first, 6))
    assert sums(at(second, 4)) == sums(at(first, 4))
    assert (second / "ledger.jsonl").read_text().splitlines() == (first / "ledger.jsonl").read_text().splitlines()[4:]
    assert tree(first) == before


def test_a_fork_goes_on_from_the_newest_whole_checkpoint_with_other_settings(
    run_file: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    second = fork(run_file, first, tmp_path / "second", "--length.steps", "9", "--optimizer.lr", "1e-5")
    said = " ".join(capsys.readouterr().err.split())
    assert "goes on at step 6, with other settings: length.steps: 6 -> 9 optimizer.lr: 0.0005 -> 1e-05" in said
    assert steps(second) == steps(second, "metrics.jsonl") == [7, 8, 9]
    noted = json.loads((second / "forked_from.json").read_text())
    assert (noted["path"], noted["step"]) == (str(at(first, 6)), 6)
    assert noted["manifest_sha256"] == hashlib.sha256((at(first, 6) / "MANIFEST.json").read_bytes()).hexdigest()
    changed = [{"field": "length.steps", "before": 6, "now": 9}, {"field": "optimizer.lr", "before": 5e-4, "now": 1e-5}]
    assert noted["changed"] == changed
    ours, theirs = (load_file(at(run, 6) / FILES[2]) for run in (second, first))
    assert all((theirs[name] == tensor).all() for name, tensor in ours.items())
    report([str(second)])
    assert "7" in (second / "report/index.html").read_text()
    assert load(str(second)).logit_scale.isfinite()


def test_a_fork_resumes_bit_by_bit(run_file: Path, first: Path, tmp_path: Path):
    flags = ("--length.steps", "9", "--optimizer.lr", "1e-4", "--seed", "3")
    whole = fork(run_file, at(first, 4), tmp_path / "whole", *flags)
    broken = fork(run_file, at(first, 4), tmp_path / "broken", *flags, "--checkpoint.keep", "9")
    for step in (6, 8, 9):  # back to the checkpoint that it was forked from, of the other run's order
        shutil.rmtree(at(broken, step))
    train(load_run_config(broken / "config.toml"), resume=True)
    assert sums(at(broken, 9)) == sums(at(whole, 9))
    assert (broken / "ledger.jsonl").read_text() == (whole / "ledger.jsonl").read_text()


def test_other_data_go_on_at_the_same_position_and_it_is_said(
    run_file: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    second = fork(run_file, at(first, 4), tmp_path / "second", "--seed", "7")
    assert "other data, or in another order: it goes on at position 32" in " ".join(capsys.readouterr().err.split())
    alone = train(load_run_config(run_file, ["--output", str(tmp_path / "alone"), "--seed", "7"]))
    ids = [
        [json.loads(line)["ids"] for line in (run / "ledger.jsonl").read_text().splitlines()] for run in (second, alone)
    ]
    assert ids[0] == ids[1][4:]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--global_batch_size", "4"], r"global_batch_size: 8 -> 4 \(a step would be another number of samples"),
        (["--model.inline.embed_dim", "24"], r"model.inline.embed_dim: 16 -> 24 \(the checkpoint's architecture"),
        (["--ema.decay", "None"], r"ema.decay: 0.9 -> None \(whether weights are averaged"),
        (["--length.steps", "4"], r"has 4 steps behind it, and this run has 4 in all: lengthen it"),
        (["--towers.lock_image", "True"], r"--fork: the checkpoint does not fit these settings: "),
    ],
)
def test_what_cannot_fit_is_refused(flags: list[str], said: str, run_file: Path, first: Path, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        fork(run_file, at(first, 4), tmp_path / "second", *flags)


def test_a_source_without_a_whole_checkpoint_is_refused(run_file: Path, first: Path, tmp_path: Path):
    with pytest.raises(UserError, match="expected a run folder, or a checkpoint in one"):
        fork(run_file, tmp_path / "nothing", tmp_path / "second")
    damaged = tmp_path / "damaged"
    shutil.copytree(first, damaged)
    (at(damaged, 6) / FILES[0]).write_bytes(b"")
    with pytest.raises(UserError, match="it was cut short"):
        fork(run_file, at(damaged, 6), tmp_path / "second")
    with pytest.raises(UserError, match="already holds a run"):
        fork(run_file, first, first)


def test_a_fork_killed_before_its_checkpoint_was_copied_is_forked_again(
    run_file: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    second = tmp_path / "second"
    with monkeypatch.context() as patch:
        patch.setattr(
            "mmclip_launch.run.beginning.opening.take_checkpoint",
            lambda fork, folder: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            fork(run_file, at(first, 4), second)
    assert not forking.folders_of(second)
    train(load_run_config(second / "config.toml"), resume=True)
    assert sums(at(second, 6)) == sums(at(first, 6))


def test_a_job_that_always_says_both_forks_once(run_file: Path, first: Path, tmp_path: Path):
    second, words = tmp_path / "second", [str(run_file), "--fork", str(at(first, 4)), "--resume", "--length.steps", "8"]
    main([*words, "--output", str(second)])
    shutil.rmtree(at(second, 8))
    main([*words, "--output", str(second)])
    assert steps(second) == [5, 6, 7, 8]


def test_the_refusal_of_a_resume_names_the_fork(run_file: Path, first: Path):
    with pytest.raises(UserError, match=rf"go on with these settings in a new folder: --fork {first} --output NEW"):
        train(load_run_config(run_file, ["--output", str(first), "--optimizer.lr", "1"]), resume=True)


def test_another_version_or_device_is_said(
    run_file: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    state = json.loads((at(first, 4) / "training_state.json").read_text())
    assert {"torch", "mmclip", "device"} == set(state["made_with"])
    monkeypatch.setattr("mmclip_launch.run.records.made_with.version", lambda name: "99.0")
    fork(run_file, at(first, 4), tmp_path / "second")
    said = " ".join(capsys.readouterr().err.split())
    assert "resuming with mmclip 99.0 a run saved with 0.1.0: the same samples" in said
    assert "resuming with torch" not in said
