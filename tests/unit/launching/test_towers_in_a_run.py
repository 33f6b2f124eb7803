"""The `[towers]` table through `assemble` and whole steps of a run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.training.loop import fit
from mmclip.training.progress import Progress
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config

RUN = """
output = "unused"
global_batch_size = 32
precision = "fp64"
device = "cpu"
length = { steps = 8 }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt", "json:captions"]
workers = 0
[model]
arch = "nano-vit-32"
[optimizer]
lr = 1e-3
[evaluation]
report = false
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


def assembled(run_file: Path, *flags: str) -> Run:
    config = load_run_config(run_file, flags)
    return assemble(config, build_accelerator(config))


class NoHooks:
    def record(self, *_: object) -> None: ...
    def stops(self, *_: object) -> None: ...
    def owes(self, *_: object) -> None: ...
    def evaluate(self, *_: object) -> None: ...
    def checkpoint(self, *_: object) -> None: ...


def test_patches_are_dropped_until_the_tail_and_by_the_keys_of_the_batch(run_file: Path):
    run = assembled(run_file, "--towers.patch_dropout", "0.5", "--towers.unmasked_tail", "0.25")
    visual, tokens, whole = run.step.module.towers.backbone.visual, [], []
    visual.transformer.resblocks[0].register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[0] // 32))
    visual.conv1.register_forward_hook(lambda *_: whole.append(1))
    fit(run.step, run.loader.batches(DataPosition(0)), Progress(), 8, torch.device("cpu"), NoHooks())
    assert tokens == [1 + 8] * 6 + [1 + 16] * 2
    assert len(whole) == 2


def test_lengths_are_taken_before_a_batch_goes_to_its_device(run_file: Path, monkeypatch: pytest.MonkeyPatch):
    """On a device each length would be waited for: here, tokens that have been moved may not be asked any more."""
    run = assembled(run_file)
    towers, seen = run.step.module.towers, []
    real = type(towers._encoders.text).lengths

    def only_before(encoder, tokens: torch.Tensor) -> np.ndarray:
        assert not moved, "the lengths of tokens on a device"
        seen.append(len(tokens))
        return real(encoder, tokens)

    def to(batch: ImageTextBatch, device: torch.device) -> ImageTextBatch:
        moved.append(device)
        return batch

    def one() -> Iterator[ImageTextBatch]:
        yield next(run.loader.batches(DataPosition(0)))

    moved: list[torch.device] = []
    batches = list(one())
    monkeypatch.setattr(type(towers._encoders.text), "lengths", only_before)
    monkeypatch.setattr(ImageTextBatch, "to", to)
    fit(run.step, iter(batches), Progress(), 1, torch.device("cpu"), NoHooks())
    assert seen == [32]
    assert moved


def losses(run: Run, start: Progress | None = None, steps: int = 4) -> list[float]:
    """Of the steps after `start`."""
    progress = start or Progress()
    found, batches = [], run.loader.batches(DataPosition(progress.samples_seen))
    for _ in range(steps):
        found.append(float(run.step(run.step.measured(next(batches)), progress).loss))
        progress = progress.after(32)
    return found


def test_no_switch_of_computing_moves_a_loss(run_file: Path):
    plain = ["--towers.text_groups", "1", "--towers.pooled_last_block", "off"]
    others = ["--towers.text_groups", "3", "--towers.activation_checkpointing", "True"]
    expected = losses(assembled(run_file, *plain))
    assert losses(assembled(run_file, *others)) == pytest.approx(expected, rel=1e-10)
    assert losses(assembled(run_file)) == pytest.approx(expected, rel=1e-10)


def test_a_step_that_is_run_again_drops_the_same_patches(run_file: Path):
    masked = ["--towers.patch_dropout", "0.5"]
    first, again = assembled(run_file, *masked), assembled(run_file, *masked)
    losses(first, steps=2)
    again.step.module.load_state_dict(first.step.module.state_dict())
    torch.manual_seed(7)  # no generator has a say
    after_two = Progress().after(32).after(32)
    assert losses(again, after_two, 1) == losses(first, after_two, 1)


def test_a_locked_tower_keeps_its_weights_and_has_no_moments(run_file: Path):
    run = assembled(run_file, "--towers.lock_image", "True")
    before = {name: tensor.clone() for name, tensor in run.step.module.state_dict().items()}
    losses(run)
    after = run.step.module.state_dict()
    unchanged = {name for name, tensor in before.items() if torch.equal(after[name], tensor)}
    assert unchanged == {name for name in before if ".visual." in name}
    visual = set(run.step.module.towers.backbone.visual.parameters())
    assert not visual & set(run.step.bare_optimizer.state)


def test_what_the_towers_cannot_do_ends_the_run_before_it_begins(run_file: Path):
    flags = ["--model.arch", "tiny-resnet-32", "--towers.patch_dropout", "0.5"]
    with pytest.raises(UserError, match=r"towers.patch_dropout=0.5: the image tower is of another kind \(ResNet\)"):
        assembled(run_file, *flags)


def test_a_frozen_batch_norm_may_run_in_micro_batches(run_file: Path):
    from mmclip.objectives.clip import ClipConfig
    from mmclip.training.module import TrainingModule

    towers = assembled(run_file, "--model.arch", "tiny-resnet-32", "--towers.lock_image", "True").step.module.towers
    TrainingModule(towers, ClipConfig().build(), micro_batches=2)
    towers = assembled(run_file, "--model.arch", "tiny-resnet-32").step.module.towers
    with pytest.raises(UserError, match="batch norms"):
        TrainingModule(towers, ClipConfig().build(), micro_batches=2)
