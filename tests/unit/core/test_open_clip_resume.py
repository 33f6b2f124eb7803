"""A run of open_clip's trainer goes on here with its weights, its moments and its steps."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from mmclip.errors import UserError
from mmclip.objectives.clip import ClipConfig
from mmclip.release.open_clip_training import take_over
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.training.checkpoint.contents import Trained
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6}


def theirs() -> tuple[Any, torch.optim.AdamW]:
    """A model and an optimizer as open_clip_train.main makes them."""
    torch.manual_seed(5)
    cfg = model_cfg_of("nano-vit-32")
    model = open_clip.CLIP(embed_dim=cfg["embed_dim"], vision_cfg=cfg["vision_cfg"], text_cfg=cfg["text_cfg"])
    exclude = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n  # noqa: E731
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": 0.2},
    ]
    return model, torch.optim.AdamW(groups, **SETTINGS)


def push(named: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """A step with gradients that depend on the parameters' names alone."""
    for name, parameter in named:
        generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def ours() -> Trained:
    module = TrainingModule(TwoTower(model_cfg_of("nano-vit-32")), ClipConfig().build())
    return Trained(module, build_optimizer(OptimizerConfig(lr=1e-3, weight_decay=0.2), module))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_next_step_is_the_one_that_open_clip_would_have_taken(prefix: str, tmp_path: Path):
    model, optimizer = theirs()
    for seed in range(3):
        push(model.named_parameters(), optimizer, seed)
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    table = {"epoch": 2, "name": "run", "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(table, tmp_path / "epoch_2.pt")
    trained = ours()
    assert take_over(tmp_path / "epoch_2.pt", trained) == 3
    push(model.named_parameters(), optimizer, 9)
    push(trained.module.towers.backbone.named_parameters(), trained.optimizer, 9)
    expected = dict(model.named_parameters())
    for name, parameter in trained.module.towers.backbone.named_parameters():
        assert torch.allclose(parameter, expected[name].reshape(parameter.shape), atol=1e-6), name


def test_what_is_no_training_checkpoint_or_another_models_is_refused(tmp_path: Path):
    model, optimizer = theirs()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"lacks epoch, optimizer.*--model.init"):
        take_over(tmp_path / "weights.pt", ours())
    (tmp_path / "cut.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        take_over(tmp_path / "cut.pt", ours())
    push(model.named_parameters(), optimizer, 0)
    table = {"epoch": 1, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(table, tmp_path / "epoch_1.pt")
    locked = ours()
    locked.module.towers.backbone.visual.requires_grad_(False)
    with pytest.raises(UserError, match="lock the same towers"):
        take_over(tmp_path / "epoch_1.pt", locked)
