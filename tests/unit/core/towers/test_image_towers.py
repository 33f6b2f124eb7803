import pytest
import torch
import torch.nn.functional as F

from mmclip.errors import UserError
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower

AVERAGES = "the image tower averages its patches"
OTHER = "blocks of the image tower are of another kind \\(CustomResidualAttentionBlock\\)"
VISION = {
    "class token (ViT)": ({}, None),
    "layer scale (ViT-M-16-alt)": ({"ls_init_value": 0.1}, None),
    "norm after pooling": ({"final_ln_after_pool": True}, None),
    "fixed positions": ({"pos_embed_type": "sin_cos_2d"}, None),
    "averaged, norm after it (CLIPA)": ({"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}, AVERAGES),
    "averaged, norm before it": ({"pool_type": "avg"}, AVERAGES),
    "norm of queries and keys": ({"qk_norm": True}, OTHER),
    "other attention": ({"scale_attn": True, "scale_heads": True, "scale_attn_inner": True}, OTHER),
    "attentional pooling": ({"attentional_pool": True}, "the image tower is of another kind \\(VisionTransformer\\)"),
    "residual network (RN50)": (
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
        "the image tower is of another kind \\(ModifiedResNet\\)",
    ),
    "timm's transformer, mapped (SigLIP)": (
        {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
        "blocks of the image tower are those of timm",
    ),
}


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize(("vision", "why"), VISION.values(), ids=VISION.keys())
def test_the_last_block_of_the_pooled_token_alone_changes_nothing(
    vision: dict, why: str | None, quick_gelu: bool, model_cfg, stock_of, gradients
):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg(vision=vision, quick_gelu=quick_gelu)).eval()
    stock = stock_of(towers)
    pixels = torch.randn(3, 3, *towers.spec.size)
    if why:
        with pytest.raises(UserError, match=rf'towers.pooled_last_block="on": {why}'):
            towers.set_up(TowersConfig(pooled_last_block="on"))
    else:
        towers.set_up(TowersConfig(pooled_last_block="on"))
    with torch.no_grad():
        embed, expected = towers.encode_image(pixels), stock.encode_image(pixels)
    assert (F.normalize(embed, dim=-1) - F.normalize(expected, dim=-1)).abs().max() < 1e-6
    towers.double(), stock.double()
    ours = gradients(towers.backbone, towers.encode_image(pixels.double()))
    theirs = gradients(stock, stock.encode_image(pixels.double()))
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() < 1e-10 * scale, name


def test_the_last_block_computes_one_token_a_picture(model_cfg):
    towers, seen = TwoTower(model_cfg()), []
    for block in towers.backbone.visual.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    pixels = torch.randn(5, 3, 32, 32)
    towers.encode_image(pixels)
    towers.set_up(TowersConfig(pooled_last_block="off"))
    towers.encode_image(pixels)
    assert seen == [5 * 17, 5, 5 * 17, 5 * 17]


def test_adapters_in_a_block_are_run_and_not_read_around(model_cfg, stock_of):
    """What replaces a part of a block (LoRA does) must compute, so such a block runs as open_clip runs it."""
    towers = TwoTower(model_cfg()).eval()
    stock, pixels = stock_of(towers), torch.randn(2, 3, 32, 32)

    class Doubled(torch.nn.MultiheadAttention):
        def forward(self, *inputs, **named):
            return 2 * super().forward(*inputs, **named)[0], None

    for model in (towers.backbone, stock):
        for block in model.visual.transformer.resblocks:
            block.attn.__class__ = Doubled
    assert towers.abilities.pooled_image_block is not None
    with torch.no_grad():
        assert torch.allclose(towers.encode_image(pixels), stock.encode_image(pixels), atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_autocast_gives_the_embeddings_of_single_precision_within_its_own_error(precision: str, model_cfg, captions):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg()).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tokens = captions([5, 9, 17, 3])
    with torch.no_grad():
        exact = towers(images, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = towers(images, tokens)
    assert output.image_embed.dtype == output.text_embed.dtype == torch.float32
    limit = 0.02 if precision == "bf16" else 1e-6
    assert (output.image_embed - exact.image_embed).abs().max() < limit
    assert (output.text_embed - exact.text_embed).abs().max() < limit


def test_channels_last_changes_no_embedding(model_cfg):
    towers = TwoTower(model_cfg()).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = towers.encode_image(pixels)
        towers.to(memory_format=torch.channels_last)
        assert torch.allclose(towers.encode_image(pixels), expected, atol=1e-6)
