"""The average of the weights: its arithmetic, that a skipped step leaves it alone, and that it is what others get."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from mmclip.objectives.clip import ClipConfig
from mmclip.release import create, load
from mmclip.towers.architecture import ModelConfig
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.checkpoint.contents import Trained, TrainingState, contents
from mmclip.training.checkpoint.lease import claim
from mmclip.training.checkpoint.loading import load_checkpoint
from mmclip.training.checkpoint.saver import Saver
from mmclip.training.ema import EmaConfig, WeightAverage
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.progress import Progress

ONE, NONE = torch.tensor(1.0), torch.tensor(0.0)


def make(decay: float = 0.9) -> Trained:
    torch.manual_seed(1)
    module = TrainingModule(create(ModelConfig(arch="nano-vit-32"), False), ClipConfig().build())
    optimizer = build_optimizer(OptimizerConfig(), module)
    return Trained(module, optimizer, WeightAverage(EmaConfig(decay=decay, warmup=False), module.towers))


def move(trained: Trained) -> None:
    """An optimizer step of some gradient."""
    for parameter in trained.module.parameters():
        parameter.grad = torch.randn_like(parameter)
    trained.optimizer.step()


def test_the_average_is_the_exponential_one():
    trained = make()
    assert trained.ema is not None
    weight, expected = trained.module.towers.backbone.token_embedding.weight, None
    expected = weight.detach().clone()
    for step in range(1, 4):
        move(trained)
        trained.ema.update(trained.module.towers, step, NONE)
        expected = 0.9 * expected + 0.1 * weight.detach()
    average = trained.ema.towers.backbone.token_embedding.weight
    assert torch.allclose(average, expected, atol=1e-7)
    assert not average.requires_grad
    kept = average.clone()
    move(trained)
    trained.ema.update(trained.module.towers, 4, ONE)
    assert torch.equal(average, kept), "a skipped step"


def test_the_memory_grows_with_the_run():
    config = EmaConfig(decay=0.99)
    assert config.decay_at(1) == 2 / 11
    assert config.decay_at(10**6) == 0.99
    assert EmaConfig(decay=0.99, warmup=False).decay_at(1) == 0.99
    with pytest.raises(ValueError, match=r"ema.decay=1.0: expected at least 0 and below 1"):
        EmaConfig(decay=1.0)


def test_a_checkpoint_gives_others_the_average_and_the_run_both(tmp_path: Path):
    trained = make()
    assert trained.ema is not None
    move(trained)
    trained.ema.update(trained.module.towers, 1, NONE)
    with closing(Saver(claim(tmp_path), CheckpointConfig(), pytest.fail)) as saver:
        saver.save(1, contents(trained, TrainingState(Progress(1, 8), "f", 1)))
        saver.wait()
    folder = tmp_path / "checkpoints" / "step-00000001"
    average, raw = load(folder), load(folder, raw=True)
    assert torch.equal(average.embed_texts(["a"]), trained.ema.towers.embed_texts(["a"]))
    assert torch.equal(raw.embed_texts(["a"]), trained.module.towers.embed_texts(["a"]))
    assert not torch.equal(raw.embed_texts(["a"]), average.embed_texts(["a"]))
    other = make()
    move(other)
    load_checkpoint(folder, other)
    assert other.ema is not None
    for ours, theirs in ((other.module, trained.module), (other.ema.towers, trained.ema.towers)):
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
