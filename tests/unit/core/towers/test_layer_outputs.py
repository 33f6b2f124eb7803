"""What a recorder keeps of each layer equals what a block by block run of stock modules gives, and changes no embedding."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.towers.layer_outputs import LayerRecorder
from mmclip.towers.settings import LoraTable, TowersConfig
from mmclip.towers.two_tower import TwoTower

LENGTHS = [5, 17, 24, 3, 9, 8, 16, 2, 11]
IMAGE = {
    "class token": ({}, ("pooled", "mean"), 2),
    "averaged": ({"pool_type": "avg", "final_ln_after_pool": True}, ("mean",), 2),
    "other attention": ({"scale_attn": True, "scale_heads": True}, ("pooled", "mean"), 2),
    "attentional pooling": ({"attentional_pool": True}, ("mean",), 2),
}
NETWORKS = {
    "residual network (RN50)": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
    "timm's residual network": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
    "timm's convolutions": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"},
    "timm's stages of blocks": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear"},
}
TEXT = {
    "by highest id (CLIP)": {},
    "by id": {"pool_type": "eos", "eos_id": 99},
    "no mask, last token (SigLIP)": {"no_causal_mask": True, "pool_type": "last"},
    "no mask, end token (MobileCLIP-S)": {"no_causal_mask": True},
    "other attention": {"scale_attn": True, "scale_heads": True},
}


def pictures(towers: TwoTower, count: int = 5) -> Tensor:
    return torch.randint(0, 256, (count, 3, *towers.spec.size), generator=torch.Generator().manual_seed(0)).byte()


def embedded(towers: TwoTower, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return towers.encode_image(towers.spec.normalise(images, torch.float32))


def made(table: dict[str, Any]) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(table).eval()


def of_blocks(blocks: Any, run: Any) -> list[Tensor]:
    """What each block of a stock module hands on."""
    kept: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, __, output: kept.append(output)) for block in blocks]
    with torch.inference_mode():
        run()
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize(("vision", "kinds", "blocks"), IMAGE.values(), ids=IMAGE.keys())
def test_blocks_of_pictures_are_those_of_the_stock_tower(vision: dict, kinds: tuple, blocks: int, model_cfg, stock_of):
    towers = made(model_cfg(vision=vision))
    recorder, images = LayerRecorder(towers), pictures(towers)
    found = recorder.images(images)
    assert found.names == (*(f"block {n + 1} {kind}" for n in range(blocks) for kind in kinds), "embedding")
    assert found.names == recorder.names("image")
    assert recorder.widths("image") == tuple(output.shape[1] for output in found.outputs)
    assert torch.equal(found.outputs[-1], embedded(towers, images))
    visual = stock_of(towers).visual
    pixels = towers.spec.normalise(images, torch.float32)
    expected = of_blocks(visual.transformer.resblocks, lambda: visual(pixels))
    wanted = [part for x in expected for part in ({"pooled": x[:, 0], "mean": x.mean(1)}[kind] for kind in kinds)]
    for output, rows in zip(found.outputs[:-1], wanted, strict=True):
        assert torch.allclose(output, rows, atol=1e-5)


@pytest.mark.parametrize("vision", NETWORKS.values(), ids=NETWORKS.keys())
def test_stages_of_a_network_give_means_over_positions(vision: dict, model_cfg):
    towers = made(model_cfg(vision={"image_size": 64} | vision))
    recorder, images = LayerRecorder(towers), pictures(towers)
    found = recorder.images(images)
    assert found.names == (*(f"stage {n + 1} mean" for n in range(len(found.names) - 1)), "embedding")
    assert len(found.names) >= 5
    assert torch.equal(found.outputs[-1], embedded(towers, images))
    visual = towers.backbone.visual
    last = (
        visual.layer4
        if hasattr(visual, "layer4")
        else visual.trunk.get_submodule(visual.trunk.feature_info[-1]["module"])
    )
    (maps,) = of_blocks([last], lambda: embedded(towers, images))
    assert torch.allclose(found.outputs[-2], maps.mean(dim=(2, 3)), atol=1e-6)


@pytest.mark.slow
def test_channels_at_the_end_of_a_map_are_no_positions(model_cfg):
    vision = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "avg", "timm_proj": "linear"}
    towers = made(model_cfg(vision=vision | {"image_size": 224}))
    assert LayerRecorder(towers).widths("image") == (96, 192, 384, 768, 16)


def test_a_transformer_of_timm_has_blocks(model_cfg):
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
    towers = made(model_cfg(vision=vision))
    found = LayerRecorder(towers).images(pictures(towers, 2))
    tokens = of_blocks(towers.backbone.visual.trunk.blocks, lambda: embedded(towers, pictures(towers, 2)))
    assert found.names[:2] == ("block 1 pooled", "block 1 mean")
    assert torch.equal(found.outputs[-3], tokens[-1][:, 0])
    assert torch.allclose(found.outputs[-2], tokens[-1].mean(1))


def test_a_tower_without_known_layers_has_what_it_pools_and_its_embedding(model_cfg):
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    towers = made(model_cfg(vision=vision))
    towers.backbone.visual.trunk.feature_info = []
    images = pictures(towers)
    found = LayerRecorder(towers).images(images)
    assert found.names == ("pooled", "embedding")
    assert torch.equal(found.outputs[-1], embedded(towers, images))
    towers.replace_image_tower(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 16)))
    assert LayerRecorder(towers).images(images).names == ("embedding",)


@pytest.mark.parametrize("custom", [False, True], ids=["flat", "under text"])
@pytest.mark.parametrize("text", TEXT.values(), ids=TEXT.keys())
def test_blocks_of_captions_are_those_of_the_stock_tower_before_padding(
    text: dict, custom: bool, model_cfg, stock_of, captions
):
    towers = made(model_cfg(text=text, custom_text=custom))
    tokens = captions(LENGTHS)
    found = LayerRecorder(towers).texts(tokens)
    assert found.names == (*(f"block {n} {kind}" for n in (1, 2) for kind in ("pooled", "mean")), "embedding")
    with torch.inference_mode():
        assert torch.equal(found.outputs[-1], towers.encode_text(towers.trim(tokens), towers.text_lengths(tokens)))
    stock = stock_of(towers)
    blocks = (stock.text if custom else stock).transformer.resblocks
    expected = of_blocks(blocks, lambda: stock.encode_text(tokens))
    end = torch.tensor([24 if text.get("pool_type") == "last" else length for length in LENGTHS]) - 1
    for number, x in enumerate(expected):
        means = torch.stack([row[:length].mean(0) for row, length in zip(x, LENGTHS, strict=True)])
        assert torch.allclose(found.outputs[2 * number], x[torch.arange(len(x)), end], atol=1e-5)
        assert torch.allclose(found.outputs[2 * number + 1], means, atol=1e-5)


@pytest.mark.parametrize("settings", [TowersConfig(text_groups=1), TowersConfig(pooled_last_block="off")])
def test_no_setting_changes_what_is_heard(settings: TowersConfig, model_cfg, captions):
    towers, tokens = made(model_cfg()), captions(LENGTHS)
    images, expected = pictures(towers), LayerRecorder(towers)
    before = (*expected.texts(tokens).outputs, *expected.images(images).outputs)
    towers.set_up(settings)
    recorder = LayerRecorder(towers)
    for output, other in zip((*recorder.texts(tokens).outputs, *recorder.images(images).outputs), before, strict=True):
        assert torch.allclose(output, other, atol=1e-5)


@pytest.mark.parametrize(("pooler", "kinds"), [("mean_pooler", ("mean",)), ("cls_pooler", ("pooled", "mean"))])
@pytest.mark.parametrize("kind", ["roberta", "bert", "mt5", "m2m_100"])
def test_blocks_of_transformers(kind: str, pooler: str, kinds: tuple, model_cfg, captions, hugging_face):
    text = {"hf_model_name": hugging_face(kind), "hf_pooler_type": pooler, "hf_proj_type": "mlp"}
    towers = made(model_cfg(text=text))
    config = towers.backbone.text.config
    tokens = captions(LENGTHS, pad_id=config.pad_token_id)
    found = LayerRecorder(towers).texts(tokens)
    assert found.names == (*(f"block {n} {kind}" for n in (1, 2) for kind in kinds), "embedding")
    with torch.inference_mode():
        assert torch.equal(found.outputs[-1], towers.encode_text(towers.trim(tokens), towers.text_lengths(tokens)))
        states = towers.backbone.text.transformer(
            input_ids=tokens, attention_mask=(tokens != config.pad_token_id).long(), output_hidden_states=True
        ).hidden_states
    first = states[1]  # behind the first block; behind the last one some kinds have a norm
    means = torch.stack([row[:length].mean(0) for row, length in zip(first, LENGTHS, strict=True)])
    assert torch.allclose(found.outputs[kinds.index("mean")], means, atol=1e-5)
    if "pooled" in kinds:
        assert torch.allclose(found.outputs[0], first[:, 0], atol=1e-5)


def test_a_class_token_behind_the_padding_is_what_is_pooled(model_cfg, captions, stock_of):
    towers = made(model_cfg(text={"embed_cls": True, "output_tokens": True}, custom_text=True))
    tokens = captions([5, 9])
    tokens = tokens[:, :-1] if towers.backbone.text.num_pos == 24 else tokens
    found = LayerRecorder(towers).texts(tokens)
    assert found.names[:2] == ("block 1 pooled", "block 1 mean")
    text = stock_of(towers).text
    last = of_blocks(text.transformer.resblocks, lambda: text(tokens))[-1]
    assert torch.allclose(found.outputs[-3], last[:, -1], atol=1e-5)
    assert torch.allclose(found.outputs[-2], torch.stack([last[0, :5].mean(0), last[1, :9].mean(0)]), atol=1e-5)


@pytest.mark.parametrize("kind", ["native", "roberta"])
def test_padding_and_the_captions_beside_it_change_nothing_of_a_caption(kind: str, model_cfg, captions, hugging_face):
    text = {"hf_model_name": hugging_face(kind), "hf_pooler_type": "mean_pooler"} if kind != "native" else {}
    towers = made(model_cfg(text=text))
    recorder, pad = LayerRecorder(towers), 1 if kind == "roberta" else 0
    tokens = captions(LENGTHS, pad_id=pad)
    together = recorder.texts(tokens)
    for row, length in enumerate(LENGTHS):
        alone = recorder.texts(tokens[row : row + 1, :length])
        for output, own in zip(together.outputs, alone.outputs, strict=True):
            assert torch.allclose(output[row : row + 1], own, atol=1e-5)


def test_adapters_are_heard_too(model_cfg):
    towers = made(model_cfg())
    towers.set_up(TowersConfig(lora=LoraTable(rank=2)))
    for name, weight in towers.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    images = pictures(towers)
    found, merged = LayerRecorder(towers).images(images), LayerRecorder(towers.merged()).images(images)
    for output, other in zip(found.outputs, merged.outputs, strict=True):
        assert torch.allclose(output, other, atol=1e-4)


def test_a_model_is_left_as_it_was(model_cfg, captions):
    towers = made(model_cfg()).train()
    recorder = LayerRecorder(towers)
    recorder.images(pictures(towers))
    recorder.texts(captions([3, 4]))
    assert all(part.training for part in towers.modules())
    assert not any(part._forward_hooks for part in towers.modules())


def test_threads_hear_their_own_rows_alone(model_cfg):
    towers = made(model_cfg())
    recorder = LayerRecorder(towers)
    images = pictures(towers, 24)
    whole = [recorder.images(part) for part in images.split(3)]
    with recorder.listening(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(recorder.images, images.split(3)))
    for one, other in zip(found, whole, strict=True):
        assert all(map(torch.equal, one.outputs, other.outputs))


def test_the_embedding_is_that_of_the_pass(model_cfg):
    towers = made(model_cfg())
    images = pictures(towers)
    embed = LayerRecorder(towers).images(images).outputs[-1]
    assert torch.equal(F.normalize(embed, dim=-1), towers.embed_uint8(images))
