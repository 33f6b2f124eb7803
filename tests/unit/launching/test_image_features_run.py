"""LiT with features computed once: no picture is read by a step, and the text tower learns the same."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.release import load
from mmclip.training.progress import Progress
from mmclip_data.features import encode_once as encode_module
from mmclip_data.features.encode_once import SourcePictures
from mmclip_data.loading import loader as loader_module
from mmclip_data.loading.loader import TrainLoader
from mmclip_data.shards.read import ShardReader
from mmclip_launch.run import features
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.features import encode_once
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
image_features = "{folder}/features"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = {{ steps = 4 }}
log_every_steps = 1
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 0 }}
checkpoint = {{ every_steps = 2 }}
evaluation = {{ report = false }}
towers = {{ lock_image = true }}
[model.inline]
embed_dim = 16
vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }}
text_cfg = {{ context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }}
"""


def run_file(folder: Path, text: str = RUN) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "run.toml"
    path.write_text(text.format(folder=folder))
    return path


def start(folder: Path, *flags: str, resume: bool = False) -> Path:
    return train(load_run_config(run_file(folder), flags), resume=resume)


def losses(run: Path) -> list[float]:
    return [float(json.loads(line)["loss"]) for line in (run / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_losses_and_gradients_are_those_of_a_run_that_encodes_the_pictures(
    micro_batch_size: int | None, tmp_path: Path
):
    flags = [] if micro_batch_size is None else ["--accumulation.micro_batch_size", str(micro_batch_size)]
    config = load_run_config(run_file(tmp_path), flags)
    accelerator = build_accelerator(config)
    once, each = assemble(config, accelerator), assemble(config, accelerator)
    encode_once(config, accelerator, once, Screen(quiet=True))
    assert isinstance(once.loader, TrainLoader)
    assert isinstance(each.loader, TrainLoader)
    towers = each.step.module.towers
    pictures = SourcePictures(each.loader.source, towers.spec.to_uint8)
    row_of = {each.loader.source.sample_id(*pictures.place(row)): row for row in range(len(pictures))}
    found: list[dict[str, torch.Tensor]] = []
    for run in (once, each):

        def note(*_: object, module: Any = run.step.module) -> None:
            found.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

        run.step.bare_optimizer.register_step_pre_hook(note)
    batches, progress = once.loader.batches(DataPosition(0)), Progress()
    for _ in range(3):
        batch = next(batches)
        assert batch.images.shape == (16, 3, 0, 0)
        assert batch.image_features is not None
        assert batch.image_features.shape == (16, 16)
        images = torch.stack([pictures(row_of[name]) for name in batch.ids])
        plain = replace(batch, images=images, image_features=None)
        ours, theirs = once.step(once.step.measured(batch), progress), each.step(each.step.measured(plain), progress)
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.image_embed, theirs.image_embed, rtol=0, atol=1e-6)
        progress = progress.after(16)
    # After a step the weights themselves differ in their last digits, and gradients with them.
    for number, (ours, theirs) in enumerate(zip(found[::2], found[1::2], strict=True)):
        assert ours.keys() == theirs.keys()
        assert not any("visual" in name for name in ours)
        difference = torch.stack([(ours[name] - gradient).norm() for name, gradient in theirs.items()]).norm()
        size = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
        assert difference <= (1e-5 if number else 1e-6) * size


@pytest.mark.parametrize("flags", [(), ("--data.workers", "1"), ("--data.workers", "1", "--data.loader", "threads")])
def test_steps_read_and_decode_no_picture(flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    members: list[str] = []
    read = ShardReader.read_into

    def counted(self: ShardReader, found: dict[str, Any], sample: int, extensions: Any = None) -> str:
        key = read(self, found, sample, extensions)
        members.extend(name for name in found if not name.startswith("__"))
        return key

    def passed(*arguments: Any) -> None:
        encode_once(*arguments)
        assert members.count("webp") + members.count("png") >= 254
        members.clear()
        (tmp_path / "passed").touch()

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a picture is opened")

        monkeypatch.setattr(loader_module, "open_picture", refuse)
        monkeypatch.setattr(encode_module, "decode_image", refuse)

    monkeypatch.setattr(ShardReader, "read_into", counted)
    monkeypatch.setattr("mmclip_launch.train.encode_once", passed)
    start(tmp_path, *flags)
    assert (tmp_path / "passed").exists()
    assert set(members) <= {"txt"}
    assert flags or len(members) == 4 * 16


def test_a_second_run_and_a_resume_take_the_features_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []
    embed = features._embed

    def counted(towers: Any, images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return embed(towers, images)

    monkeypatch.setattr(features, "_embed", counted)
    first = start(tmp_path)
    assert len(encoded) == 4  # 254 pictures in chunks of 64
    expected = losses(first)
    start(tmp_path, "--output", str(tmp_path / "second"))
    shutil.rmtree(first / "checkpoints" / "step-00000004")
    last = "checkpoints/step-00000004/open_clip_model.safetensors"
    start(tmp_path, resume=True)
    assert len(encoded) == 4
    assert losses(first) == losses(tmp_path / "second") == expected
    assert (first / last).read_bytes() == (tmp_path / "second" / last).read_bytes()
    start(tmp_path, "--seed", "1", "--output", str(tmp_path / "third"))  # another tower
    assert len(encoded) == 8
    assert len([*(tmp_path / "features").iterdir()]) == 2


def test_bad_pictures_are_replaced_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mmclip.errors import BadSampleError

    call = SourcePictures.__call__

    def sometimes(self: SourcePictures, row: int) -> torch.Tensor:
        if row % 50 == 7:
            raise BadSampleError("the picture is cut")
        return call(self, row)

    monkeypatch.setattr(SourcePictures, "__call__", sometimes)
    folder = start(tmp_path, "--data.max_bad_fraction", "0.5", "--length.steps", "16")
    entries = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in entries} == {"the picture is cut"}
    assert len({entry["sample_id"] for entry in entries}) == 5  # rows 7, 57, 107, 157 and 207 of 254
    assert np.isfinite(losses(folder)).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from mmclip_launch.run import features
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train
features.BLOCK_ROWS = 64
embed, calls = features._embed, []
def embed_and_die(*arguments):
    calls.append(0)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(*arguments)
features._embed = embed_and_die
train(load_run_config(Path(sys.argv[1])), resume=True)
print("calls", len(calls))
"""


@pytest.mark.slow
def test_a_run_killed_in_the_pass_goes_on_with_it(tmp_path: Path):
    unbroken = start(tmp_path / "unbroken")
    command = [sys.executable, "-c", KILLED, str(run_file(tmp_path / "killed"))]
    killed = subprocess.run([*command, "3"], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = subprocess.run([*command, "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # of four blocks; the second may not have been on the disk when the third was encoded
    assert {"calls 2", "calls 3"} & set(done.stdout.splitlines())
    assert losses(tmp_path / "killed" / "run") == losses(unbroken)


@pytest.mark.slow
def test_two_ranks_share_the_pass_and_train_the_same_run(tmp_path: Path, on_two_ranks: Callable[..., str]):
    one = start(tmp_path / "one", "--precision", "fp64")
    on_two_ranks("train", str(run_file(tmp_path / "two")), "--precision", "fp64")
    assert losses(tmp_path / "two" / "run") == pytest.approx(losses(one), rel=1e-9)
    files = [next((tmp_path / name / "features").glob("*/features.f32")) for name in ("one", "two")]
    assert files[0].parent.name == files[1].parent.name
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--towers.lock_image", "False"), "towers.lock_image = false"),
        (("--towers.unlocked_image_groups", "1"), "towers.unlocked_image_groups = 1"),
        (("--data.augment.flip", "0.5"), "data.augment.flip = 0.5"),
        (("--towers.freeze_batch_norm", "False"), "towers.freeze_batch_norm = false"),
    ],
)
def test_what_a_computed_feature_cannot_know_is_refused_by_name(flags: tuple[str, ...], message: str, tmp_path: Path):
    with pytest.raises((UserError, SystemExit)) as caught:
        start(tmp_path, *flags)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", ["resolution = [{{ size = 16, until = 0.5 }}]", "data.views = [{{ copies = 1 }}]"])
def test_tables_that_computed_features_exclude_are_refused_by_name(table: str, tmp_path: Path):
    text = (
        RUN.replace("workers = 0 }}", "workers = 0, views = [{{ copies = 1 }}] }}") if "views" in table else table + RUN
    )
    with pytest.raises(UserError, match=f"excludes {table.partition(' ')[0]}"):
        load_run_config(run_file(tmp_path, text))


VIT = "vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }}"


def test_the_head_of_a_locked_timm_tower_learns_over_features(tmp_path: Path):
    timm = 'vision_cfg = {{ timm_model_name = "test_vit", timm_pool = "token", timm_proj = "linear", image_size = 32 }}'
    run = train(load_run_config(run_file(tmp_path, RUN.replace(VIT, timm))))
    before, after = (load(run / "checkpoints" / f"step-0000000{n}").backbone.state_dict() for n in (2, 4))
    moved = {name for name in after if name.startswith("visual.") and not torch.equal(before[name], after[name])}
    assert moved == {"visual.head.proj.weight"}
    key = json.loads(next((tmp_path / "features").glob("*/key.json")).read_text())
    assert key["embed_dim"] == 64  # of the trunk, not of the embedding


def test_a_locked_tower_whose_head_reads_patches_is_refused_before_the_run(tmp_path: Path):
    pool = 'vision_cfg = {{ timm_model_name = "test_efficientnet", timm_pool = "abs_attn", timm_proj = "", image_size = 160 }}'
    with pytest.raises(
        UserError, match=r"weights of the image tower learn although it is locked, the first visual\.head"
    ):
        train(load_run_config(run_file(tmp_path, RUN.replace(VIT, pool).replace("embed_dim = 16", "embed_dim = 64"))))
    assert not (tmp_path / "run").exists()


def test_a_batch_keeps_its_features_in_pieces_and_on_a_device():
    features = torch.rand(4, 3)
    batch = ImageTextBatch(
        torch.empty(4, 3, 0, 0, dtype=torch.uint8), torch.ones(4, 2, dtype=torch.int64), torch.arange(4),
        tuple("abcd"), DataPosition(4), image_features=features,
    )  # fmt: skip
    parts = [part.image_features for part in batch.split(2)]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), features)
    moved = batch.to(torch.device("meta")).image_features
    assert moved is not None
    assert moved.device.type == "meta"
