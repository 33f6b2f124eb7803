import pytest
import torch
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower

TOWERS = {
    "open_clip's": ({}, {}, 0.45),
    "other blocks": ({"qk_norm": True}, {"qk_norm": True}, 0.45),
    "averaged": ({"pool_type": "avg"}, {}, 0.45),
    "timm's": ({"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}, {}, 0.45),
    "ConvNeXt": ({"timm_model_name": "test_convnext", "timm_pool": "avg", "image_size": 160}, {}, 0.9),
    "RoBERTa": ({}, {"hf_model_name": "roberta", "hf_proj_type": "linear"}, 0.45),
    "mT5": ({}, {"hf_model_name": "mt5", "hf_proj_type": "linear"}, 0.45),
}


def saved_bytes(run) -> tuple[Tensor, int]:
    """What `run` returns, and the activations that autograd keeps for its backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = run()
    return out, sum(kept.values())


@pytest.mark.parametrize(("vision", "text", "share"), TOWERS.values(), ids=TOWERS.keys())
def test_gradients_stay_and_memory_goes(
    vision: dict, text: dict, share: float, model_cfg, captions, gradients, hugging_face
):
    """Dropout included, which must draw again what it drew."""
    torch.manual_seed(0)
    if "hf_model_name" in text:
        text = text | {"hf_model_name": hugging_face(text["hf_model_name"])}
    layers = {} if "timm_model_name" in vision else {"layers": 6}
    towers = TwoTower(model_cfg(vision=vision | layers, text=text | ({} if "hf_model_name" in text else {"layers": 6})))
    towers.double().train()
    images = torch.randint(0, 256, (9, 3, *towers.spec.size), dtype=torch.uint8)
    tokens = captions([5, 17, 24, 3, 9, 8, 16, 2, 11])

    def run() -> Tensor:
        torch.manual_seed(1)
        output = towers(images, tokens)
        return output.image_embed + 2 * output.text_embed

    embed, before = saved_bytes(run)
    expected = gradients(towers, embed)
    towers.set_up(TowersConfig(activation_checkpointing=True))
    again, after = saved_bytes(run)
    got = gradients(towers, again)
    assert torch.equal(again, embed)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-12 * gradient.abs().max(), name
    assert after < share * before


def test_dropped_patches_are_computed_again_too(model_cfg, gradients):
    towers = TwoTower(model_cfg(vision={"layers": 6})).double()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tokens, keys = torch.ones(4, 24, dtype=torch.int64), torch.arange(4)
    embed, before = saved_bytes(lambda: towers(images, tokens, keys=keys, dropped=0.25).image_embed)
    expected = gradients(towers, embed)
    towers.set_up(TowersConfig(activation_checkpointing=True))
    again, after = saved_bytes(lambda: towers(images, tokens, keys=keys, dropped=0.25).image_embed)
    got = gradients(towers, again)
    assert all(torch.equal(got[name], gradient) for name, gradient in expected.items())
    assert after < 0.45 * before


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16}, "ModifiedResNet has no switch"),
        (
            {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 64},
            "ResNet has batch norms .first: conv1",
        ),
    ],
)
def test_statistics_that_would_move_twice_are_refused(vision: dict, reason: str, model_cfg):
    with pytest.raises(UserError, match=f"towers.activation_checkpointing=true: .*{reason}"):
        TwoTower(model_cfg(vision=vision)).set_up(TowersConfig(activation_checkpointing=True))
