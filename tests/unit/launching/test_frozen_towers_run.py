"""Heads that learn on features of two frozen towers: the run of one that encodes at each step, though nothing is read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig

from mmclip.batch import DataPosition
from mmclip.errors import UserError
from mmclip.release import load
from mmclip.tokenizer import Tokenizer
from mmclip.towers.two_tower import TwoTower
from mmclip.training.progress import Progress
from mmclip_data.features.encode_once import SourcePictures
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.loading.loader import TrainLoader
from mmclip_data.shards.read import ShardReader
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.features import encode_once
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.in_training import InTraining
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
image_features = "{folder}/features"
text_features = "{folder}/features"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = {{ steps = 4 }}
log_every_steps = 1
checkpoint = {{ every_steps = 2 }}
evaluation.report = false
towers = {{ lock_image = true, lock_text = true }}
[data]
source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}
captions = ["txt", "json:captions"]
workers = 0
[model.inline]
embed_dim = 12
vision_cfg = {{ timm_model_name = "test_vit", timm_pool = "token", timm_proj = "linear", image_size = 160 }}
[model.inline.text_cfg]
context_length = 12
vocab_size = 49408
hf_model_name = "{folder}/bert"
hf_pooler_type = "mean_pooler"
hf_proj_type = "{proj}"
"""


def run_file(folder: Path, text: str = RUN, proj: str = "linear") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    bert = BertConfig(
        vocab_size=49408, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, pad_token_id=0, hidden_dropout_prob=0.1,
    )  # fmt: skip
    bert.save_pretrained(folder / "bert")
    path = folder / "run.toml"
    path.write_text(text.format(folder=folder, proj=proj))
    return path


def start(folder: Path, *flags: str, resume: bool = False, text: str = RUN) -> Path:
    return train(load_run_config(run_file(folder, text), flags), resume=resume)


def losses(run: Path) -> list[float]:
    return [float(json.loads(line)["loss"]) for line in (run / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("flags", "proj"),
    [((), "mlp"), (("--accumulation.micro_batch_size", "4"), "linear"), (("--objective.type", "siglip"), "linear")],
)
def test_losses_and_gradients_are_those_of_a_run_that_encodes_at_each_step(
    flags: tuple[str, ...], proj: str, tmp_path: Path
):
    config = load_run_config(run_file(tmp_path, proj=proj), flags)
    accelerator = build_accelerator(config)
    once, each = assemble(config, accelerator), assemble(config, accelerator)
    encode_once(config, accelerator, once, Screen(quiet=True))
    assert isinstance(once.loader, TrainLoader)
    assert isinstance(each.loader, TrainLoader)
    pictures = SourcePictures(each.loader.source, each.step.module.towers.spec.to_uint8)
    row_of = {each.loader.source.sample_id(*pictures.place(row)): row for row in range(len(pictures))}
    found: list[dict[str, torch.Tensor]] = []
    for run in (once, each):

        def note(*_: object, module: Any = run.step.module) -> None:
            found.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

        run.step.bare_optimizer.register_step_pre_hook(note)
    progress = Progress()
    for number, batch, plain in zip(
        range(3), once.loader.batches(DataPosition(0)), each.loader.batches(DataPosition(0)), strict=False
    ):
        assert (batch.ids, batch.position, batch.keys.tolist()) == (plain.ids, plain.position, plain.keys.tolist())
        assert batch.text_features is not None
        assert batch.tokens.shape == (16, 1)
        assert batch.text_features.shape == (16, 16)
        plain = replace(plain, images=torch.stack([pictures(row_of[name]) for name in plain.ids]))
        ours, theirs = once.step(once.step.measured(batch), progress), each.step(each.step.measured(plain), progress)
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.text_embed, theirs.text_embed, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.image_embed, theirs.image_embed, rtol=0, atol=1e-5)
        progress = progress.after(16)
        ours, theirs = found[2 * number : 2 * number + 2]
        assert ours.keys() == theirs.keys()
        parts = {name.split(".")[2] + "." + name.split(".")[3] for name in ours if name.count(".") > 2}
        assert parts == {"visual.head", "text.proj"}
        difference = torch.stack([(ours[name] - gradient).norm() for name, gradient in theirs.items()]).norm()
        assert difference <= 1e-4 * torch.stack([gradient.norm() for gradient in theirs.values()]).norm()


def test_a_second_run_and_a_resume_read_no_shard_and_make_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = start(tmp_path)
    expected = losses(first)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was read, tokenized or encoded")

    monkeypatch.setattr(ShardReader, "read_into", refuse)
    monkeypatch.setattr("mmclip_launch.run.features.SourcePictures.__call__", refuse)
    monkeypatch.setattr(TwoTower, "text_features", refuse)
    monkeypatch.setattr(TwoTower, "image_features", refuse)
    monkeypatch.setattr(
        "mmclip_launch.run.beginning.preflight.refuse_unusable", lambda *_: []
    )  # which reads some to see
    split = Tokenizer.__call__

    def of_probes(self: Tokenizer, texts: Any) -> torch.Tensor:
        assert "A photo of a CAT" in texts[0]
        return split(self, texts)

    monkeypatch.setattr(Tokenizer, "__call__", of_probes)
    shutil.rmtree(first / "checkpoints" / "step-00000004")
    start(tmp_path, resume=True)
    again = start(tmp_path, "--output", str(tmp_path / "again"))
    assert losses(first) == losses(again) == expected
    last = "checkpoints/step-00000004/open_clip_model.safetensors"
    assert (first / last).read_bytes() == (again / last).read_bytes()


@pytest.mark.parametrize("flags", [(), ("--ema.decay", "0.5")])
def test_evaluation_in_the_run_has_the_figures_of_the_whole_model_and_runs_no_trunk_twice(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sets = (
        '[[evaluation.datasets]]\nname = "pairs"\npath = "embedded:emoji/unseen-concept-twemoji.tar"\n'
        'captions = ["txt"]\ntasks = [{{ type = "zero_shot_retrieval" }}]\n'
    )
    text = RUN.replace("evaluation.report = false\n", "") + sets
    config = load_run_config(run_file(tmp_path, text), (*flags, "--length.steps", "3"))
    accelerator = build_accelerator(config)
    run = assemble(config, accelerator)
    opened = Sets(config.evaluation.datasets).opened()
    judged = run.step.trained.judged
    evaluation = InTraining(config, accelerator, judged, opened, Screen(quiet=True))
    calls: list[int] = []
    features = TwoTower.image_features

    def counted(self: TwoTower, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return features(self, images)

    monkeypatch.setattr(TwoTower, "image_features", counted)
    before = evaluation(Progress())
    encode_once(config, accelerator, run, Screen(quiet=True))
    trained_on = len(calls)
    for number, batch in zip(range(3), run.loader.batches(DataPosition(0)), strict=False):
        run.step(batch, Progress(number, 16 * number))
    after = evaluation(Progress(3, 48))
    assert len(calls) == trained_on
    assert before != after
    from mmclip_eval.results.result import ModelIdentity
    from mmclip_eval.suite import evaluate_opened

    whole = evaluate_opened(Encoder(Towers(judged)), opened, ModelIdentity(model="whole", precision="fp32"))
    expected = {f"pairs/{name}": estimate.value for result in whole for name, estimate in result.metrics.items()}
    assert after == pytest.approx(expected, abs=0.02)  # a rank may turn over in the last digits


@pytest.mark.parametrize("flags", [(), ("--data.workers", "1"), ("--data.workers", "1", "--data.loader", "threads")])
def test_an_image_tower_learns_over_a_locked_text_tower(flags: tuple[str, ...], tmp_path: Path):
    text = RUN.replace('image_features = "{folder}/features"', "").replace("lock_image = true, ", "")
    folder = start(tmp_path, *flags, text=text)
    before = load(folder / "checkpoints" / "step-00000002").backbone.state_dict()
    after = load(folder).backbone.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(name.startswith("visual.trunk") for name in moved)
    assert not any(name.startswith("text.transformer") for name in moved)
    plain = text.replace('text_features = "{folder}/features"', "").replace("{folder}/run", "{folder}/plain")
    assert losses(start(tmp_path, text=plain)) == pytest.approx(losses(folder), rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--towers.lock_text", "False"), "towers.lock_text = false"),
        (("--towers.unlocked_text_groups", "1"), "towers.unlocked_text_groups = 1"),
    ],
)
def test_a_text_tower_that_learns_has_no_features(flags: tuple[str, ...], message: str, tmp_path: Path):
    with pytest.raises((UserError, SystemExit)) as caught:
        start(tmp_path, *flags)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_train_the_same_run(tmp_path: Path, on_two_ranks: Callable[..., str]):
    one = start(tmp_path / "one", "--precision", "fp64")
    on_two_ranks("train", str(run_file(tmp_path / "two")), "--precision", "fp64")
    assert losses(tmp_path / "two" / "run") == pytest.approx(losses(one), rel=1e-9)
