import contextlib
import io
import warnings

import pytest
import torch
from torch import nn

from mmclip.errors import UserError
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower

IMAGES = {
    "ViT": {"layers": 3},
    "ModifiedResNet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
    "timm's ViT": {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160},
    "timm's ResNet": {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 64},
}


def trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("groups", [0, 1, 2, 3, 99])
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_tower_is_locked_as_open_clip_locks_it(name: str, groups: int, model_cfg, stock_of):
    towers = TwoTower(model_cfg(vision=IMAGES[name]))
    stock, settings = stock_of(towers), TowersConfig(lock_image=True, unlocked_image_groups=groups)
    if name == "ModifiedResNet" and groups:
        with pytest.raises(UserError, match=f"unlocked_image_groups={groups}: .*locked whole or not at all"):
            towers.set_up(settings)
        return
    with warnings.catch_warnings():  # of the old name under which open_clip asks timm for its groups
        warnings.simplefilter("ignore", FutureWarning)
        stock.lock_image_tower(unlocked_groups=groups)
    towers.set_up(settings)
    assert trained(towers.backbone) == trained(stock)
    assert trained(towers.backbone) < {name for name, _ in towers.backbone.named_parameters()} or groups == 99


TEXTS = {"flat": ({"layers": 3}, False), "under text": ({"layers": 3}, True)}
TEXTS |= {kind: ({"hf_model_name": kind, "hf_proj_type": "linear"}, True) for kind in ("roberta", "xlm-roberta", "mt5")}


@pytest.mark.parametrize("groups", [0, 1, 2, 3, 99])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_tower_is_locked_as_open_clip_locks_it(name: str, groups: int, model_cfg, stock_of, hugging_face):
    text, custom = TEXTS[name]
    text = text | {"hf_model_name": hugging_face(name)} if "hf_model_name" in text else text
    towers = TwoTower(model_cfg(text=text, custom_text=custom))
    stock = stock_of(towers)
    with contextlib.redirect_stdout(io.StringIO()):  # open_clip prints
        stock.lock_text_tower(groups)
    towers.set_up(TowersConfig(lock_text=True, unlocked_text_groups=groups))
    assert trained(towers.backbone) == trained(stock)


@pytest.mark.parametrize("kind", ["bert", "m2m_100"])
def test_layers_that_open_clip_cannot_name_are_locked_too(kind: str, model_cfg, hugging_face):
    towers = TwoTower(model_cfg(text={"hf_model_name": hugging_face(kind), "hf_proj_type": "linear"}))
    towers.set_up(TowersConfig(lock_text=True, unlocked_text_groups=1))
    left = trained(towers.backbone.text)
    assert not [name for name in left if "embed" in name or ".layer.0." in name or ".layers.0." in name]
    assert [name for name in left if ".layer.1." in name or ".layers.1." in name]


def step(towers: TwoTower, captions) -> None:
    images = torch.randint(0, 256, (3, 3, *towers.spec.size), dtype=torch.uint8)
    output = towers(images, captions([3, 9, 20]))
    (output.image_embed + output.text_embed).sum().backward()


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_locked_tower_gets_no_gradient_and_keeps_no_graph(locked: str, model_cfg, captions):
    towers = TwoTower(model_cfg(custom_text=True))
    towers.set_up(TowersConfig(**{f"lock_{locked}": True}))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    output = towers(images, captions([3, 9, 20]))
    assert output.image_embed.requires_grad == (locked != "image")
    assert output.text_embed.requires_grad == (locked != "text")
    step(towers, captions)
    parts = {"image": towers.backbone.visual, "text": towers.backbone.text}
    for name, part in parts.items():
        assert all((parameter.grad is None) == (name == locked) for parameter in part.parameters())


def test_gradients_of_unlocked_groups_are_those_of_a_whole_tower(model_cfg, captions):
    torch.manual_seed(0)
    whole = TwoTower(model_cfg(vision={"layers": 3})).double()
    part = TwoTower(whole.model_cfg).double()
    part.load_state_dict(whole.state_dict())
    part.set_up(TowersConfig(lock_image=True, unlocked_image_groups=2))
    for towers in (whole, part):
        torch.manual_seed(1)
        step(towers, captions)
    expected = dict(whole.named_parameters())
    got = {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
    assert {name for name in got if "visual" in name} == {name for name in trained(part) if "visual" in name}
    assert all(torch.equal(gradient, expected[name].grad) for name, gradient in got.items())


@pytest.mark.parametrize("name", ["ModifiedResNet", "timm's ResNet"])
@pytest.mark.parametrize("freeze", [True, False])
def test_statistics_of_a_locked_tower_rest_unless_told_otherwise(name: str, freeze: bool, model_cfg, captions):
    towers = TwoTower(model_cfg(vision=IMAGES[name]))
    towers.set_up(TowersConfig(lock_image=True, freeze_batch_norm=freeze))
    before = {name: buffer.clone() for name, buffer in towers.backbone.named_buffers() if "running" in name}
    keys = list(towers.backbone.state_dict())
    assert before
    towers.train()
    step(towers, captions)
    after = dict(towers.backbone.named_buffers())
    assert all(torch.equal(after[name], buffer) == freeze for name, buffer in before.items())
    assert bool(towers.moving_batch_norms()) == (not freeze)
    assert list(towers.backbone.state_dict()) == keys, "frozen norms keep the names that stock open_clip loads"


def test_statistics_of_unlocked_groups_move(model_cfg, captions):
    towers = TwoTower(model_cfg(vision=IMAGES["timm's ResNet"]))
    towers.set_up(TowersConfig(lock_image=True, unlocked_image_groups=1))
    before = {name: buffer.clone() for name, buffer in towers.backbone.named_buffers() if "running" in name}
    step(towers.train(), captions)
    moved = {
        name for name, buffer in towers.backbone.named_buffers() if name in before and not buffer.equal(before[name])
    }
    assert moved == {
        f"{norm}.{kind}" for norm in towers.moving_batch_norms() for kind in ("running_mean", "running_var")
    }
    assert 0 < len(moved) < len(before)


def test_a_locked_tower_has_no_dropout_and_evaluation_ends_as_it_began(model_cfg, captions, hugging_face):
    text = {"hf_model_name": hugging_face("roberta"), "hf_proj_type": "linear"}
    towers = TwoTower(model_cfg(text=text)).train()
    tokens = captions([3, 9], pad_id=1)
    with torch.no_grad():
        assert not torch.equal(towers.encode_text(tokens), towers.encode_text(tokens)), "dropout draws"
        towers.set_up(TowersConfig(lock_text=True))
        assert torch.equal(towers.encode_text(tokens), towers.encode_text(tokens))
    resting = [part.training for part in towers.modules()]
    towers.eval().train()
    assert [part.training for part in towers.modules()] == resting


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlocked_image_groups": 2}, "counts groups of a locked tower: set towers.lock_image too"),
        ({"lock_text": True, "unlocked_text_groups": -1}, "unlocked_text_groups=-1: expected 0 or more"),
    ],
)
def test_groups_that_mean_nothing_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TowersConfig(**settings)
