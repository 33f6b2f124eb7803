"""A run that changes its picture size: from its file to its checkpoints, unbroken and resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from mmclip.errors import UserError
from mmclip_data.loading.loader import TrainLoader
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = {{ steps = 6 }}
log_every_steps = 1
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}, workers = 0 }}
checkpoint = {{ every_steps = 1, keep = 10 }}
ema = {{ decay = 0.5 }}
resolution = [{{ size = 16, until = 0.5 }}]
[model.inline]
embed_dim = 16
vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }}
text_cfg = {{ context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }}
[evaluation]
report = false
every_steps = 2
[[evaluation.datasets]]
name = "names"
path = "embedded:emoji/unseen-concept-twemoji.tar"
label = "json:name"
templates = "emoji"
"""


def start(folder: Path, *flags: str, resume: bool = False, text: str = RUN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(text.format(folder=folder))
    return train(load_run_config(folder / "run.toml", flags), resume=resume)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(tmp_path_factory.mktemp("unbroken"))


def test_checkpoints_hold_the_size_they_were_trained_at_and_open_with_open_clip(unbroken: Path):
    for step, size in ((1, 16), (3, 16), (4, 32), (6, 32)):
        folder = unbroken / "checkpoints" / f"step-{step:08d}"
        model: Any = open_clip.create_model(f"local-dir:{folder}")
        assert model.visual.image_size in (size, (size, size))
        assert len(load_file(folder / "raw_weights.safetensors")["visual.positional_embedding"]) == 1 + (size // 8) ** 2
        assert json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]["size"] == [size, size]
        pixels = torch.zeros(1, 3, size, size)
        assert model.encode_image(pixels).shape == (1, 16)


@pytest.mark.parametrize("step", [2, 3, 4], ids=["before", "at", "after"])
def test_a_run_resumed_around_the_change_ends_with_the_same_bytes(step: int, unbroken: Path, tmp_path: Path):
    again = tmp_path / "run"
    shutil.copytree(unbroken, again)
    for folder in (again / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    start(tmp_path, resume=True)
    for name in ("open_clip_model", "raw_weights", "optimizer"):
        last = Path("checkpoints/step-00000006") / f"{name}.safetensors"
        assert (again / last).read_bytes() == (unbroken / last).read_bytes(), name
    assert (again / "ledger.jsonl").read_text() == (unbroken / "ledger.jsonl").read_text()


def test_the_order_of_samples_is_that_of_a_run_of_one_size(unbroken: Path, tmp_path: Path):
    plain = start(tmp_path, "--length.steps", "6", text=RUN.replace("resolution =", "#"))
    hashes = [
        [json.loads(line)["ids"] for line in (run / "ledger.jsonl").read_text().splitlines()]
        for run in (plain, unbroken)
    ]
    assert hashes[0] == hashes[1]


def test_the_loader_makes_pictures_of_the_new_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    batches = TrainLoader.batches

    def noted(self: TrainLoader, start: Any) -> Any:
        for batch in batches(self, start):
            seen.append((batch.position.samples_consumed, batch.images.shape[-1]))
            yield batch

    monkeypatch.setattr(TrainLoader, "batches", noted)
    start(tmp_path, "--data.workers", "1", "--checkpoint.every_steps", "6")
    assert seen == [(16 * step, 16 if step <= 3 else 32) for step in range(1, 7)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{{ size = 16, until = 0.5 }}", "{{ size = 20, until = 0.5 }}"), "resolution: .*no multiple of the patch size 8"),
        (("vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }}",
          "vision_cfg = {{ image_size = 32, layers = [1, 1, 1, 1], width = 8 }}"), "resolution: .*ModifiedResNet"),
        (("until = 0.5", "until = 96"), "ends at step 6"),
        (('source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}',
          'source = {{ type = "streaming", shards = "x.tar", samples = 9 }}'), "resolution: a stream would begin anew"),
    ],
)  # fmt: skip
def test_what_cannot_change_is_refused_before_the_run(change: tuple[str, str], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        start(tmp_path, text=RUN.replace(*change))
    assert not (tmp_path / "run").exists()
