"""Every text tower that open_clip has, small: what runs fewer tokens equals the padded stock tower, what cannot is named."""

import pytest
import torch
import torch.nn.functional as F

from mmclip.errors import UserError
from mmclip.towers.block import RowBlock
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower

CAUSAL = None
READS = "the text tower has no causal mask, so that every token reads the padding"
NATIVE = {
    "end token by highest id (CLIP)": ({}, CAUSAL),
    "end token by id (worldwide)": ({"pool_type": "eos", "eos_id": 99}, CAUSAL),
    "first token": ({"pool_type": "first"}, CAUSAL),
    "projection with bias": ({"proj_bias": True}, CAUSAL),
    "no projection": ({"proj_type": "none", "width": 16, "heads": 1}, CAUSAL),
    "layer scale (ViT-M-16-alt)": ({"ls_init_value": 0.1}, CAUSAL),
    "norm of queries and keys": ({"qk_norm": True}, CAUSAL),
    "scaled attention and hidden layer": ({"scale_attn": True, "scale_fc": True, "scale_heads": True}, CAUSAL),
    "no mask, last token (SigLIP, CLIPA)": ({"no_causal_mask": True, "pool_type": "last"}, READS),
    "no mask, end token (MobileCLIP-S)": ({"no_causal_mask": True}, READS),
    "causal, last token": ({"pool_type": "last"}, "the text tower pools the last column, which holds padding"),
}
CLASS = "the text tower pools a class token behind the padding"
POOLERS = ("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
KINDS = ("roberta", "xlm-roberta", "bert", "mt5", "m2m_100")
LENGTHS = [5, 17, 24, 3, 9, 8, 16, 2, 11]
SETTINGS = {
    "one group": TowersConfig(text_groups=1),
    "three groups": TowersConfig(text_groups=3),
    "by width": TowersConfig(),
    "last block whole": TowersConfig(pooled_last_block="off"),
}


def compare(towers: TwoTower, stock, tokens: torch.Tensor, gradients, settings: TowersConfig) -> None:
    """Features in single precision to 1e-6, gradients in double precision to 1e-10 of the largest."""
    towers.set_up(settings)
    with torch.no_grad():
        embed, expected = towers.encode_text(towers.trim(tokens)), stock.encode_text(tokens)
    assert (F.normalize(embed, dim=-1) - F.normalize(expected, dim=-1)).abs().max() < 1e-6
    towers.double(), stock.double()
    ours = gradients(towers.backbone, towers.encode_text(towers.trim(tokens)))
    theirs = gradients(stock, stock.encode_text(tokens))
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() < 1e-10 * scale, name
    towers.float(), stock.float()


@pytest.mark.parametrize("custom", [False, True], ids=["flat", "under text"])
@pytest.mark.parametrize(("text", "why"), NATIVE.values(), ids=NATIVE.keys())
def test_open_clips_own_towers(text: dict, why: str | None, custom: bool, model_cfg, stock_of, captions, gradients):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg(text=text, custom_text=custom)).eval()
    assert towers.abilities.text_groups == why
    is_common = not any(name.startswith(("qk", "scale")) for name in text)
    assert (towers.abilities.pooled_text_block is None) == is_common
    stock = stock_of(towers)
    for settings in SETTINGS.values():
        if why and settings.text_groups == 3:
            with pytest.raises(UserError, match=rf"towers.text_groups=3: {why}"):
                towers.set_up(settings)
        else:
            compare(towers, stock, captions(LENGTHS), gradients, settings)


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_towers_of_transformers(kind: str, pooler: str, model_cfg, stock_of, captions, gradients, hugging_face):
    torch.manual_seed(0)
    text = {"hf_model_name": hugging_face(kind), "hf_pooler_type": pooler, "hf_proj_type": "mlp"}
    towers = TwoTower(model_cfg(text=text)).eval()
    assert towers.abilities.text_groups is None
    stock = stock_of(towers)
    tokens = captions(LENGTHS, pad_id=towers.backbone.text.config.pad_token_id)
    for name in ("one group", "three groups", "by width"):
        compare(towers, stock, tokens, gradients, SETTINGS[name])


def test_padding_within_a_caption_of_transformers_is_kept(model_cfg, stock_of, captions, hugging_face):
    towers = TwoTower(model_cfg(text={"hf_model_name": hugging_face("roberta"), "hf_proj_type": "linear"})).eval()
    tokens = captions([9, 4], pad_id=1)
    tokens[0, 2:5] = 1
    assert towers.text_lengths(tokens).tolist() == [9, 4]
    with torch.no_grad():
        assert torch.allclose(towers.encode_text(towers.trim(tokens)), stock_of(towers).encode_text(tokens), atol=1e-6)


def test_a_maximum_over_padding_is_refused(model_cfg, hugging_face):
    text = {"hf_model_name": hugging_face("bert"), "hf_pooler_type": "max_pooler", "hf_proj_type": "mlp"}
    with pytest.raises(UserError, match="towers.text_groups=2: max_pooler of the text tower takes the maximum over"):
        TwoTower(model_cfg(text=text)).set_up(TowersConfig(text_groups=2))


def test_a_class_token_behind_the_padding_runs_as_open_clip_runs_it(model_cfg, stock_of, captions):
    towers = TwoTower(model_cfg(text={"embed_cls": True}, custom_text=True)).eval()
    assert (towers.abilities.text_groups, towers.abilities.pooled_text_block) == (CLASS, CLASS)
    tokens = captions(LENGTHS)
    with torch.no_grad():
        assert torch.allclose(towers.encode_text(towers.trim(tokens)), stock_of(towers).encode_text(tokens), atol=1e-6)
    with pytest.raises(UserError, match=f"towers.text_groups=4: {CLASS}"):
        towers.set_up(TowersConfig(text_groups=4))


@pytest.mark.parametrize("pool_type", ["argmax", "last"])
def test_stock_code_still_runs_the_blocks_that_take_rows(pool_type: str, model_cfg, stock_of, captions):
    """open_clip's own `encode_text` and `encode_image` on our backbone: exports and evaluation by others rely on it."""
    towers = TwoTower(model_cfg(text={"pool_type": pool_type})).eval()
    assert all(type(block) is RowBlock for block in towers.backbone.transformer.resblocks)
    stock, pixels = stock_of(towers), torch.randn(2, 3, 32, 32)
    assert list(stock.state_dict()) == list(towers.backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(towers.backbone.encode_text(captions([4, 9])), stock.encode_text(captions([4, 9])))
        assert torch.equal(towers.backbone.encode_image(pixels), stock.encode_image(pixels))


def rows_of(block, run) -> list[int]:
    """How many tokens the hidden layer of a block computed in each of its calls."""
    seen: list[int] = []
    handle = block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].flatten(0, -2).shape[0]))
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        (TowersConfig(text_groups=1, pooled_last_block="off"), [9 * 24], [9 * 24]),
        (TowersConfig(text_groups=1), [9 * 24], [9]),
        (TowersConfig(text_groups=3), [3 * 8 + 3 * 16 + 3 * 24], [9]),
        (TowersConfig(), [4 * 8 + 3 * 16 + 2 * 24], [9]),
    ],
)
def test_only_tokens_that_matter_are_computed(settings: TowersConfig, first, last, model_cfg, captions):
    towers = TwoTower(model_cfg())
    towers.set_up(settings)
    blocks, tokens = towers.backbone.transformer.resblocks, captions(LENGTHS)
    assert rows_of(blocks[0], lambda: towers.encode_text(tokens)) == first
    assert rows_of(blocks[1], lambda: towers.encode_text(tokens)) == last


def test_no_mask_is_read_where_causality_says_it(model_cfg, captions, monkeypatch: pytest.MonkeyPatch):
    seen = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x, **named: seen.append(named) or real(*x, **named))
    TwoTower(model_cfg(text={"layers": 3})).encode_text(captions([5, 7]))
    assert [(named["attn_mask"] is None, named["is_causal"]) for named in seen] == [(True, True)] * 2 + [(False, False)]


def test_lengths_that_are_known_are_not_read_again(model_cfg, captions, monkeypatch: pytest.MonkeyPatch):
    towers, tokens = TwoTower(model_cfg()).eval(), captions(LENGTHS)
    with torch.no_grad():
        expected = towers.encode_text(tokens)
        lengths = towers.text_lengths(tokens)
        assert lengths.tolist() == LENGTHS
        monkeypatch.setattr(type(towers._encoders.text), "lengths", lambda *_: pytest.fail("it waits for the device"))
        assert torch.equal(towers.encode_text(tokens, lengths), expected)


def test_only_one_lookup_fills_a_gradient_of_the_vocabulary(model_cfg, captions):
    towers, calls = TwoTower(model_cfg()), []
    towers.backbone.token_embedding.register_forward_hook(lambda *_: calls.append(1))
    towers.encode_text(captions(LENGTHS))
    assert calls == [1]
