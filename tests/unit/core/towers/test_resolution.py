from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed

from mmclip.errors import UserError
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import load_weights, save_weights


def resized_by_open_clip(before: TwoTower, after: TwoTower) -> dict[str, torch.Tensor]:
    """The weights of `before` as open_clip fits them to a model of the other size."""
    state = {name: tensor.clone() for name, tensor in before.backbone.state_dict().items()}
    with torch.no_grad():
        resize_pos_embed(state, after.backbone)
        resize_text_pos_embed(state, after.backbone)
    return state


@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_image_positions_are_interpolated_as_open_clip_does(size: int, model_cfg, stock_of):
    torch.manual_seed(0)
    towers, untouched = TwoTower(model_cfg()).eval(), TwoTower(model_cfg())
    untouched.load_state_dict(towers.state_dict())
    before = towers.set_image_size(size)
    expected = TwoTower(model_cfg(vision={"image_size": size})).eval()
    expected.backbone.load_state_dict(resized_by_open_clip(untouched, expected))
    assert before.keys() == (set() if size == 32 else {"visual.positional_embedding"})
    for name, tensor in before.items():
        assert torch.equal(tensor, untouched.backbone.state_dict()[name])
    assert towers.model_cfg == expected.model_cfg
    assert towers.spec == expected.spec
    assert towers.spec.size == (size, size)
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(towers.encode_image(pixels), expected.encode_image(pixels))
        assert torch.allclose(towers.encode_image(pixels), stock_of(towers).encode_image(pixels), atol=1e-6)


def test_a_picture_may_be_wider_than_high_and_come_back(model_cfg):
    towers = TwoTower(model_cfg()).eval()
    position = towers.backbone.visual.positional_embedding.detach().clone()
    towers.set_image_size((16, 64))
    assert towers.backbone.visual.grid_size == (2, 8)
    assert towers.encode_image(torch.randn(1, 3, 16, 64)).shape == (1, 16)
    changed = towers.set_image_size(32)
    assert changed["visual.positional_embedding"].shape == (17, 32)
    towers.backbone.visual.positional_embedding.data.copy_(position)
    assert towers.encode_image(torch.randn(1, 3, 32, 32)).shape == (1, 16)


def test_patches_are_dropped_by_the_new_grid(model_cfg):
    towers = TwoTower(model_cfg())
    towers.set_image_size(64)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    seen = []
    towers.backbone.visual.transformer.resblocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    towers(images, torch.ones(2, 24).long(), keys=torch.arange(2), dropped=0.5)
    assert seen[0].shape[0] == 2 * (32 + 1)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("length", [8, 24, 40])
def test_text_positions_are_interpolated_as_open_clip_does(length: int, custom: bool, model_cfg, stock_of, captions):
    torch.manual_seed(0)
    towers, untouched = (TwoTower(model_cfg(custom_text=custom)).eval() for _ in range(2))
    untouched.load_state_dict(towers.state_dict())
    before = towers.set_context_length(length)
    expected = TwoTower(model_cfg(text={"context_length": length}, custom_text=custom)).eval()
    expected.backbone.load_state_dict(resized_by_open_clip(untouched, expected))
    name = "text.positional_embedding" if custom else "positional_embedding"
    assert before.keys() == (set() if length == 24 else {name})
    assert towers.model_cfg == expected.model_cfg
    tokens = captions([5, length, 3], width=length)
    with torch.no_grad():
        assert torch.equal(towers.encode_text(tokens), expected.encode_text(tokens))
        assert torch.allclose(towers.encode_text(tokens), stock_of(towers).encode_text(tokens), atol=1e-6)


def test_the_tokenizer_follows_the_context_length(model_cfg):
    towers = TwoTower(model_cfg(text={"vocab_size": 49408}))
    old = towers.tokenizer
    towers.set_context_length(9)
    assert towers.tokenizer(["a b c d e f g h i j k l"]).shape == (1, 9)
    assert old(["a"]).shape == (1, 24)
    assert towers.embed_texts(["a b c d e f g h i j k l"]).shape == (1, 16)


@pytest.mark.parametrize(("kind", "most"), [("roberta", 38), ("bert", 40), ("mt5", None), ("m2m_100", None)])
def test_hugging_face_towers_take_as_many_tokens_as_they_have_positions(
    kind: str, most: int | None, model_cfg, captions, hugging_face
):
    towers = TwoTower(model_cfg(text={"hf_model_name": hugging_face(kind), "hf_proj_type": "linear"})).eval()
    length = most or 60
    assert towers.set_context_length(length) == {}
    tokens = captions([length], pad_id=towers.backbone.text.config.pad_token_id, width=length)
    assert towers.encode_text(tokens).isfinite().all()
    if most:
        with pytest.raises(UserError, match=f"context_length={most + 1}: {kind} has {most} positions"):
            towers.set_context_length(most + 1)


def test_a_run_starts_from_weights_of_another_size(tmp_path: Path, model_cfg):
    torch.manual_seed(0)
    small = TwoTower(model_cfg(text={"vocab_size": 49408}))
    save_weights(small, tmp_path)
    towers = create(ModelConfig(init=str(tmp_path), image_size=48, context_length=40), needs_logit_bias=False)
    assert (towers.spec.size, towers.tokenizer.context_length) == ((48, 48), 40)
    (tmp_path / "large").mkdir()
    save_weights(towers, tmp_path / "large")
    again = load_weights(tmp_path / "large").eval()
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'large'}").eval()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = stock.encode_image(pixels)
        assert torch.allclose(again.encode_image(pixels), expected, atol=1e-6)
        assert torch.allclose(towers.eval().encode_image(pixels), expected, atol=1e-6)
    fresh = create(ModelConfig(arch="nano-vit-32", image_size=64, context_length=20), needs_logit_bias=False)
    assert fresh.backbone.visual.positional_embedding.shape[0] == 8 * 8 + 1
    assert fresh.backbone.positional_embedding.shape[0] == 20


def test_towers_of_timm_change_their_size_and_are_read_back(tmp_path: Path, model_cfg):
    vision = {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}
    towers = TwoTower(model_cfg(vision=vision, text={"vocab_size": 49408})).eval()
    changed = towers.set_image_size(96)
    assert changed.keys() == {"visual.trunk.pos_embed"}
    save_weights(towers, tmp_path)
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(load_weights(tmp_path).eval().encode_image(pixels), towers.encode_image(pixels))


REFUSED = {
    "no multiple": ({}, 36, "image_size=36 is no multiple of the patch size 8; nearest: 32"),
    "ModifiedResNet": (
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
        96,
        "ModifiedResNet cannot change their size; its attention pooling is bound",
    ),
}


@pytest.mark.parametrize(("vision", "size", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_sizes_that_do_not_fit_are_refused(vision: dict, size: int, message: str, model_cfg):
    with pytest.raises(UserError, match=message):
        TwoTower(model_cfg(vision=vision)).set_image_size(size)


def test_a_context_without_room_for_a_word_is_refused(model_cfg):
    with pytest.raises(UserError, match="model.context_length=2: expected at least 3"):
        TwoTower(model_cfg()).set_context_length(2)
    with pytest.raises(ValueError, match="model.context_length=2: expected at least 3"):
        ModelConfig(context_length=2)
    with pytest.raises(ValueError, match="model.image_size=0: expected a size in pixels"):
        ModelConfig(image_size=0)
