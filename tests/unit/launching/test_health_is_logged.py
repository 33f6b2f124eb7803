import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from mmclip.batch import DataPosition
from mmclip.training.checkpoint.lease import claim
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.progress import Progress
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.hooks import RunHooks
from mmclip_launch.run.records import alarm_rule
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.trackers import build_writers
from mmclip_launch.train import train

RUN = """
output = "none"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = { steps = 12 }
schedule = { warmup_samples = 0 }
checkpoint = { every_steps = 4 }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt"]
workers = 0
[model]
arch = "nano-vit-32"
"""


def config(folder: Path, *flags: str) -> RunConfig:
    (folder / "run.toml").write_text(RUN)
    return load_run_config(folder / "run.toml", ["--output", str(folder / "run"), *flags])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_line_tells_the_health_of_its_last_step_and_keeps_no_other(tmp_path: Path):
    settings = config(tmp_path, "--log_every_steps", "3", "--precision", "bf16")
    accelerator = build_accelerator(settings)
    run = assemble(settings, accelerator)
    folder = Path(settings.output)
    folder.mkdir()
    writer = build_writers(settings.trackers, folder, {}, 0, is_main=True)
    journal = Journal(claim(folder), Patience(0.0, pytest.fail))
    hooks = RunHooks(settings, accelerator, run, writer, lambda *_: {}, lambda *_: None, pytest.fail, journal)
    progress, batches, kept, alive = Progress(), run.loader.batches(DataPosition(0)), [], []
    for _ in range(3):
        batch = next(batches)
        report = run.step(batch, progress)
        assert report.image_embed.grad_fn is None
        kept.append((report.image_embed.clone(), report.text_embed.clone()))
        alive.append(weakref.ref(report.image_embed))
        progress = progress.after(settings.global_batch_size)
        hooks.record(progress, batch, report, 0.0)
        del report
        assert [embed() is not None for embed in alive[:-1]] == [False] * (len(alive) - 1)
    assert alive[-1]() is None, "the log has read it"
    writer.close()
    hooks.close()
    (logged,) = lines(folder / "metrics.jsonl")
    for modality, embed in zip(("image", "text"), kept[-1], strict=True):
        assert embed.dtype == torch.float32
        shares = torch.linalg.svdvals(embed.double())
        shares = shares / shares.sum()
        assert logged[f"health/{modality}_effective_rank"] == pytest.approx(float((-shares * shares.log()).sum().exp()))
    distances = (kept[-1][0] - kept[-1][1]).square().sum(dim=1)
    assert logged["health/alignment"] == pytest.approx(float(distances.mean()))


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_a_collapse_is_said_once_and_a_resumed_run_writes_the_same_alarms(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(alarm_rule, "SETTLING_STEPS", 0)
    settings = config(tmp_path, "--log_every_steps", "1", "--optimizer.lr", "0.05", "--objective.type", objective)
    folder = train(settings)
    unbroken = (folder / "alarms.jsonl").read_text()
    found = lines(folder / "alarms.jsonl")
    collapse = next(alarm for alarm in found if alarm["alarm"] == "collapse")
    assert collapse.keys() == {"step", "samples_seen", "alarm", "message"}
    assert collapse["samples_seen"] == 16 * collapse["step"]
    assert 3 <= collapse["step"] <= 8
    said = capsys.readouterr().err
    assert said.count(f"alarm: step {collapse['step']}: {collapse['message']}\n") == 1
    shutil.rmtree(folder / "checkpoints" / "step-00000012")
    later = {**collapse, "step": 11}
    with (folder / "alarms.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    train(settings, resume=True)
    assert (folder / "alarms.jsonl").read_text() == unbroken
    assert collapse["message"] not in capsys.readouterr().err


def test_a_healthy_run_leaves_no_file_of_alarms(tmp_path: Path):
    folder = train(config(tmp_path, "--log_every_steps", "1"))
    assert not (folder / "alarms.jsonl").exists()
    assert len(lines(folder / "metrics.jsonl")) == 12


@pytest.mark.parametrize("pieces", [(), ("--accumulation.micro_batch_size", "8")], ids=["whole", "in pieces"])
def test_objectives_over_views_log_their_features_and_the_angle_of_their_gradients(
    pieces: tuple[str, ...], tmp_path: Path
):
    auxiliary = '\n[[auxiliary]]\nstart = 0.4\nobjective = { type = "simclr", hidden = 32, out = 16 }\n'
    (tmp_path / "slip.toml").write_text(RUN + auxiliary)
    steps = ("--log_every_steps", "3", "--length.steps", "9", "--checkpoint.every_steps", "9")
    flags = ["--output", str(tmp_path / "run"), *steps, *pieces]
    folder = train(load_run_config(tmp_path / "slip.toml", flags))
    alone, *both = lines(folder / "metrics.jsonl")
    assert "health/image_std" in alone
    assert not any("simclr" in name or "pooled" in name for name in alone)
    assert len(both) == 2
    for line in both:
        assert -1 <= line["train/gradient_cosine/main/simclr"] <= 1
        assert line["train/gradient_norm/main"] > 0
        assert line["train/main/loss"] + line["train/simclr/loss"] == pytest.approx(line["train/loss"], rel=1e-5)
        assert line["health/pooled_dimensions"] == line["health/simclr/projected_dimensions"] == 16
        assert line["health/pooled_raw_std"] > 0
        assert 1 <= line["health/simclr/projected_effective_rank"] <= 16


def test_a_run_of_pictures_alone_logs_no_pairs(tmp_path: Path):
    objective = 'objective = { type = "byol", hidden = 32, out = 16 }\n'
    text = RUN.replace('captions = ["txt"]', "image_only = true").replace("[data]", objective + "[data]")
    (tmp_path / "byol.toml").write_text(text)
    flags = ["--output", str(tmp_path / "run"), "--log_every_steps", "3", "--length.steps", "3"]
    (line,) = lines(train(load_run_config(tmp_path / "byol.toml", flags)) / "metrics.jsonl")
    names = {name for name in line if name.startswith("health/")}
    assert {name.removeprefix("health/").partition("_")[0] for name in names} == {"pooled", "projected"}
    assert 0 < line["train/teacher_cosine"] < 1
