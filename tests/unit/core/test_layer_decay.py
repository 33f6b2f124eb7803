"""Layer-wise decay: the farther from the top, the smaller the steps."""

import pytest
import torch

from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.layers import image_depths, text_depths
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer, layer_scales


def test_depths_of_a_vit_and_of_the_causal_text_tower():
    backbone = create(ModelConfig(arch="tiny-vit-64"), needs_logit_bias=False).backbone
    images, texts = image_depths(backbone), text_depths(backbone)
    expected = {
        "visual.proj": 0,
        "visual.ln_post.weight": 0,
        "visual.transformer.resblocks.3.mlp.c_fc.weight": 1,
        "visual.transformer.resblocks.0.ln_1.bias": 4,
        "visual.ln_pre.weight": 5,
        "visual.conv1.weight": 5,
        "visual.class_embedding": 5,
        "visual.positional_embedding": 5,
    }
    assert {name: images[name] for name in expected} == expected
    expected = {
        "text_projection": 0,
        "ln_final.weight": 0,
        "transformer.resblocks.1.attn.in_proj_weight": 1,
        "transformer.resblocks.0.attn.in_proj_weight": 2,
        "token_embedding.weight": 3,
        "positional_embedding": 3,
    }
    assert {name: texts[name] for name in expected} == expected
    names = {name for name, _ in backbone.named_parameters()} - {"logit_scale"}
    assert images.keys() | texts.keys() == names, "each parameter has its place"
    assert not images.keys() & texts.keys()


def test_a_tower_of_timm_is_divided_as_timm_divides_it():
    backbone = create(ModelConfig(arch="tiny-resnet-32"), needs_logit_bias=False).backbone
    depths = image_depths(backbone)
    assert depths.keys() == {name for name, _ in backbone.named_parameters() if name.startswith("visual.")}
    assert depths["visual.head.proj.weight"] == 0
    first = max(depths.values())
    assert {depth for name, depth in depths.items() if name.startswith("visual.trunk.conv1.")} == {first}
    assert first > depths["visual.trunk.layer4.0.conv1.weight"] > 0


def test_the_first_update_of_each_layer_shrinks_by_the_factor():
    torch.manual_seed(0)
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    module = TrainingModule(towers, ClipConfig().build())
    config = OptimizerConfig(lr=1e-3, weight_decay=0.0, image_layer_decay=0.5)
    optimizer = build_optimizer(config, module)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    for group in optimizer.param_groups:  # as the step does
        group["lr"] = config.lr * group["lr_scale"]
    optimizer.step()
    moved = {name: (parameter - before[name]).abs().mean().item() for name, parameter in module.named_parameters()}
    prefix = "towers.backbone."
    for name, depth in image_depths(towers.backbone).items():
        assert moved[prefix + name] == pytest.approx(1e-3 * 0.5**depth, rel=1e-3), name
    for name in text_depths(towers.backbone):
        assert moved[prefix + name] == pytest.approx(1e-3, rel=1e-3), name
    assert moved[prefix + "logit_scale"] == pytest.approx(1e-3, rel=1e-3)


def test_without_decay_there_are_two_groups_and_no_tower_is_asked():
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    assert layer_scales(OptimizerConfig(), towers) == {}
    groups = build_optimizer(OptimizerConfig(), TrainingModule(towers, ClipConfig().build())).param_groups
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.2, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_factor_out_of_range_is_refused(decay: float):
    with pytest.raises(ValueError, match=r"optimizer.image_layer_decay=.*expected above 0, at most 1"):
        OptimizerConfig(image_layer_decay=decay)
