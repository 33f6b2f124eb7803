"""Low-rank adapters: against peft's own forward on stock open_clip, merged against un-merged, and which weights rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.block import take_rows
from mmclip.towers.lora import adapter_config, adapter_files, adapter_state, add_adapters, load_adapters, plain_name
from mmclip.towers.settings import LoraTable, TowersConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights

KINDS: dict[str, Any] = {
    "flat": ({}, {}, False),
    "averaging, under text": ({"pool_type": "avg"}, {}, True),
    "no causal mask": ({}, {"no_causal_mask": True}, True),
    "timm and bert": ({"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}, "bert", True),
    "timm and roberta": ({"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}, "roberta", True),
}


@pytest.fixture
def towers_of(model_cfg, hugging_face) -> Callable[..., TwoTower]:
    def made(kind: str, **lora: Any) -> TwoTower:
        vision, text, custom = KINDS[kind]
        if isinstance(text, str):
            text = {"hf_model_name": hugging_face(text), "hf_proj_type": "linear"}
        torch.manual_seed(0)
        towers = TwoTower(model_cfg(vision=vision, text=text, custom_text=custom))
        towers.set_up(TowersConfig(lora=LoraTable(**{"rank": 4, "alpha": 6, **lora})))
        return towers

    return made


def moved(towers: TwoTower) -> TwoTower:
    """With adapters that change something, as after a few steps: peft starts with none that does."""
    torch.manual_seed(1)
    for name, parameter in towers.backbone.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return towers


def embeds(towers: Any, images: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([towers.encode_image(images), towers.encode_text(tokens)])


@pytest.mark.parametrize("targets", [("attention",), ("linear",)])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_towers_embed_as_unmerged_ones_and_stock_open_clip_as_both(
    kind: str, targets: tuple[str, ...], towers_of, captions
):
    towers = towers_of(kind, targets=targets)
    start = towers.merged()
    moved(towers).eval()
    images, tokens = torch.randn(3, 3, *towers.spec.size), captions([24, 7, 2])
    with torch.no_grad():
        unmerged, merged, before = (embeds(model, images, tokens) for model in (towers, towers.merged(), start))
        stock = embeds(towers.merged().backbone, images, tokens)
    scale = float(unmerged.abs().max())
    assert (unmerged - merged).abs().max() < 1e-5 * scale
    assert (stock - merged).abs().max() < 1e-5 * scale
    assert (unmerged - before).norm(dim=1).min() > 1e-3 * scale  # every row: both towers have adapters


@pytest.mark.parametrize("pooled", ["auto", "off"])
def test_gradients_of_fused_attention_are_those_of_pefts_own_forward(
    pooled: Any, model_cfg, stock_of, captions, gradients
):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg()).double()
    stock = stock_of(towers)
    towers.set_up(TowersConfig(lora=LoraTable(rank=4, alpha=6), pooled_last_block=pooled))
    moved(towers)
    peer = get_peft_model(stock, LoraConfig(r=4, lora_alpha=6, target_modules=r".*resblocks\.\d+\.attn"))
    ours = {n.replace("backbone.", ""): p for n, p in towers.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "lora_" in name:
                parameter.copy_(ours.pop(name.removeprefix("base_model.model.")))
    assert not ours
    images, tokens = torch.randn(3, 3, 32, 32, dtype=torch.float64), captions([24, 7, 2])
    wanted_embed = embeds(peer, images, tokens)
    wanted = gradients(peer, wanted_embed)
    embed = embeds(towers, images, tokens)
    found = gradients(towers, embed)
    assert torch.allclose(embed, wanted_embed, rtol=0, atol=1e-11)
    assert len(found) == 2 * 2 * 2  # towers, blocks, factors
    for name, gradient in found.items():
        other = wanted[f"base_model.model.{name.removeprefix('backbone.')}"]
        assert torch.allclose(gradient, other, rtol=0, atol=1e-10), name
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_are_trained_and_scale_and_the_rest_rest(kind: str, towers_of):
    towers = towers_of(kind)
    trained = {name for name, parameter in towers.backbone.named_parameters() if parameter.requires_grad}
    own = {name for name, _ in towers.backbone.named_parameters() if ".lora_" in name}
    assert trained == {name for name in own if ".out_proj." not in name}
    assert any(name.startswith("visual.") for name in trained)
    assert any(not name.startswith("visual.") for name in trained)
    for part in towers.train().backbone.modules():
        if not any(parameter.requires_grad for parameter in part.parameters()) and list(part.parameters()):
            assert not part.training


def test_less_than_two_percent_of_vit_b_32_are_trained():
    with torch.device("meta"):
        model = open_clip.model.CLIP(**model_cfg_of("ViT-B-32"))
        take_rows(model)
        total = sum(parameter.numel() for parameter in model.parameters())
        add_adapters(model, LoraTable(rank=8), {"image": True, "text": True})
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 12 * 8 * 768 * 4 + 12 * 8 * 512 * 4  # of each block: in, and queries, keys and values out
    assert 0 < trained < 0.02 * total


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_tower_alone_gets_adapters_though_names_of_the_other_end_alike(tower: str, towers_of):
    trained = {n for n, p in towers_of("flat", towers=tower).backbone.named_parameters() if p.requires_grad}
    assert trained
    assert {name.startswith("visual.") for name in trained} == {tower == "image"}


def test_named_layers_alone_get_adapters(towers_of):
    trained = {n for n, p in towers_of("flat", targets=("c_fc",)).backbone.named_parameters() if p.requires_grad}
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in trained} == {"c_fc"}
    assert len(trained) == 2 * 2 * 2


def write_adapters(backbone: Any, folder: Path) -> None:
    folder.mkdir()
    adapter_config(backbone, folder)
    for name, tensors in adapter_files(backbone, None).items():
        save_file(tensors, folder / name)


def test_peft_opens_the_adapter_on_stock_open_clip(towers_of, captions, tmp_path: Path):
    towers = moved(towers_of("flat", targets=("linear",))).eval()
    base = TwoTower(towers.model_cfg).eval()
    write_adapters(towers.backbone, tmp_path / "adapter")
    base.backbone.load_state_dict(load_file(tmp_path / "adapter" / "base.safetensors"))
    images, tokens = torch.randn(3, 3, 32, 32), captions([24, 7, 24])
    peer = PeftModel.from_pretrained(base.backbone, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        assert (embeds(peer, images, tokens) - embeds(towers, images, tokens)).abs().max() < 1e-5


def test_adapters_and_base_come_back_bit_for_bit_and_others_are_refused(towers_of, tmp_path: Path):
    towers = moved(towers_of("flat"))
    write_adapters(towers.backbone, tmp_path / "adapter")
    other = towers_of("flat")
    with torch.no_grad():
        for parameter in other.backbone.parameters():
            parameter.add_(1)
    load_adapters(other.backbone, None, tmp_path / "adapter")
    for name, tensor in towers.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor), name
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == set(adapter_state(towers.backbone))
    with pytest.raises(UserError, match=r"lora_A.weight has shape \[4, 32\], expected \[2, 32\]"):
        load_adapters(towers_of("flat", rank=2).backbone, None, tmp_path / "adapter")


def test_a_saved_folder_is_plain_and_opens_in_stock_open_clip(tmp_path: Path):
    torch.manual_seed(0)
    towers = TwoTower(model_cfg_of("nano-vit-32"))
    towers.set_up(TowersConfig(lora=LoraTable(rank=2)))
    moved(towers).eval()
    save_weights(towers, tmp_path)
    assert not [name for name in load_file(tmp_path / "open_clip_model.safetensors") if name != plain_name(name)]
    stock: Any = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[0]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a cat", "two dogs"])
    with torch.no_grad():
        stock_embed = stock.eval().encode_text(tokens, normalize=True)
    assert (stock_embed - towers.embed_texts(["a cat", "two dogs"])).abs().max() < 1e-5


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_activation_checkpointing_changes_no_gradient(precision: Any, model_cfg, captions, gradients):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        towers = TwoTower(model_cfg())
        towers.set_up(TowersConfig(lora=LoraTable(rank=4), activation_checkpointing=again))
        moved(towers).train()
        images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
            embed = embeds(towers, images, captions([24, 7, 2]))
        found.append(gradients(towers, embed.float()))
    assert found[0].keys() == found[1].keys()
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rank": 0}, "rank=0: expected at least 1"),
        ({"alpha": 4}, "without a rank makes no adapters"),
        ({"rank": 2, "dropout": 1.0}, "dropout=1.0: expected a share"),
        ({"rank": 2, "targets": ()}, r"targets=\[\]: expected attention"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        LoraTable(**table)


def test_what_contradicts_adapters_is_refused():
    lora = LoraTable(rank=2)
    with pytest.raises(ValueError, match="lock_image beside adapters of the image tower"):
        TowersConfig(lora=lora, lock_image=True)
    assert TowersConfig(lora=LoraTable(rank=2, towers="text"), lock_image=True).adapters
    with pytest.raises(ValueError, match="dropout beside towers.activation_checkpointing"):
        TowersConfig(lora=LoraTable(rank=2, dropout=0.1), activation_checkpointing=True)


def test_layers_that_a_tower_has_not_are_named_with_those_it_has(towers_of, model_cfg):
    with pytest.raises(UserError, match=r"the image tower .* has no such layer.*attn.*mlp\.c_fc"):
        towers_of("flat", targets=("qkv",))
    towers = TwoTower(model_cfg(text={"embed_cls": True}, custom_text=True))  # its blocks run as stock open_clip's
    with pytest.raises(UserError, match="the text tower has fused attention in blocks that do not run as ours"):
        towers.set_up(TowersConfig(lora=LoraTable(rank=2)))
