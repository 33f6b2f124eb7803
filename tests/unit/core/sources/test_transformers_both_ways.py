"""transformers -> mmclip -> transformers, and open_clip -> mmclip -> both: the same embeddings to 1e-5 at every station."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers

from mmclip.errors import UserError
from mmclip.release import export, load
from mmclip.release.formats import FORMATS
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights

TIGHT = 1e-5


def difference(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


def embedded(model: TwoTower, texts: list[str], pictures: list) -> tuple[torch.Tensor, torch.Tensor]:
    return model.embed_images(pictures), model.embed_texts(texts)


def stock_open_clip(folder: Path, texts: list[str], pictures: list) -> tuple[torch.Tensor, torch.Tensor]:
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model: Any = stock.eval()
    with torch.no_grad():
        image = model.encode_image(torch.stack([transform(p) for p in pictures]), normalize=True)  # pyright: ignore
        return image, model.encode_text(tokenizer(texts), normalize=True)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_clip_of_transformers_goes_through_mmclip_and_open_clip_and_back(
    act: str, make_clip: Callable, stock_embeddings: Callable, texts: list[str], pictures: list, tmp_path: Path
):
    source = make_clip(tmp_path / "source", hidden_act=act)
    theirs = stock_embeddings(source, texts, pictures)
    model = load(f"transformers:{source}")
    assert difference(embedded(model, texts, pictures), theirs) < TIGHT
    assert (model.spec.interpolation, model.spec.resize_mode, model.spec.size) == ("bilinear", "shortest", (40, 40))
    assert model.logit_scale.item() == pytest.approx(3.21)
    assert (model.model_cfg["quick_gelu"], model.tokenizer.context_length) == (act == "quick_gelu", 24)
    back = export(source, tmp_path / "back", writer=FORMATS["transformers"])
    assert back.difference is not None
    assert difference(stock_embeddings(back.folder, texts, pictures), theirs) < TIGHT
    assert difference(stock_open_clip(export(source, tmp_path / "oc").folder, texts, pictures), theirs) < TIGHT
    before, after = (transformers.CLIPModel.from_pretrained(f).state_dict() for f in (source, back.folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_siglip_of_transformers_goes_through_mmclip_and_back(
    tiny_siglip: Path, stock_embeddings: Callable, texts: list[str], pictures: list, tmp_path: Path
):
    theirs = stock_embeddings(tiny_siglip, texts, pictures)
    model = load(tiny_siglip)
    assert difference(embedded(model, texts, pictures), theirs) < TIGHT
    assert model.logit_bias is not None
    assert (model.logit_scale.item(), model.logit_bias.item()) == (2.5, -7.5)
    assert (model.spec.resize_mode, model.spec.mean) == ("squash", (0.5, 0.5, 0.5))
    (tmp_path / "saved").mkdir()
    save_weights(model, tmp_path / "saved")
    again = embedded(load(tmp_path / "saved"), texts, pictures)
    assert difference(again, embedded(model, texts, pictures)) == 0
    back = export(tmp_path / "saved", tmp_path / "back", writer=FORMATS["transformers"])
    assert difference(stock_embeddings(back.folder, texts, pictures), theirs) < TIGHT
    stock: Any = transformers.SiglipModel.from_pretrained(back.folder)
    assert stock.config.text_config.eos_token_id == 1
    assert (stock.logit_scale.item(), stock.logit_bias.item()) == (2.5, -7.5)


def test_siglip_reads_texts_in_lower_case_as_it_was_trained(tiny_siglip: Path, tmp_path: Path):
    model = load(tiny_siglip)
    assert torch.equal(model.embed_texts(["A Red CAT"]), model.embed_texts(["a red cat"]))
    back = export(tiny_siglip, tmp_path / "back", writer=FORMATS["transformers"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(back.folder)
    assert tokenizer("A Red CAT").input_ids == tokenizer("a red cat").input_ids


def test_a_siglip_that_open_clip_has_no_name_for_fails_there_loudly(tiny_siglip: Path, tmp_path: Path):
    (tmp_path / "saved").mkdir()
    save_weights(load(tiny_siglip), tmp_path / "saved")
    with pytest.raises(TypeError, match="mmclip_timm_kwargs"):
        open_clip.create_model(f"local-dir:{tmp_path / 'saved'}")
    with pytest.raises(UserError, match=r"stock open_clip cannot build these towers.*depth=2.*--format transformers"):
        export(tiny_siglip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_siglip_of_open_clips_registry_has_the_shape_that_we_write_for_it():
    """The table of names is checked against timm itself, without memory for the weights."""
    import timm

    from mmclip.release.hf.siglip import STOCK

    act = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}
    for (width, layers, heads, between, patch, word), (name, sizes) in STOCK.items():
        for size in sizes:
            with torch.device("meta"):
                model: Any = timm.create_model(f"{name}_{size}", pretrained=False, num_classes=0)
            block = model.blocks[0]
            found = (model.embed_dim, len(model.blocks), block.attn.num_heads, block.mlp.fc1.out_features)
            assert found == (width, layers, heads, between), name
            assert model.patch_embed.patch_size == (patch, patch)
            assert model.patch_embed.img_size == (size, size)
            assert act[type(block.mlp.act).__name__] == word, f"{name}_{size}"
            assert block.norm1.eps == 1e-6


def test_a_siglip_of_a_known_size_gets_the_name_that_stock_open_clip_builds():
    from mmclip.release.hf import siglip

    config = transformers.SiglipConfig(
        vision_config={"hidden_act": "gelu", "image_size": 256}, text_config={"projection_size": 768}
    )
    table = siglip.model_cfg_of(config)
    assert table["vision_cfg"] == {
        "timm_model_name": "vit_base_patch16_siglip_256", "timm_pool": "map", "timm_proj": "none", "image_size": 256
    }  # fmt: skip
    again = siglip.config_of(table)
    for part in ("vision_config", "text_config"):
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"):
            assert getattr(getattr(again, part), name) == getattr(getattr(config, part), name)
    approximate = transformers.SiglipConfig(vision_config={"image_size": 256}, text_config={"projection_size": 768})
    assert siglip.model_cfg_of(approximate)["vision_cfg"]["mmclip_timm_kwargs"]["act_layer"] == "gelu_tanh", (
        "timm's tower of this name computes the exact GELU"
    )


def test_open_clip_with_openais_tokenizer_goes_to_transformers(
    stock_embeddings: Callable, pictures: list, tmp_path: Path
):
    """Real words, punctuation, digits and capitals, through the vocabulary of 49,408."""
    torch.manual_seed(3)
    model = TwoTower(model_cfg_of("nano-vit-32") | {"quick_gelu": True})
    (tmp_path / "source").mkdir()
    save_weights(model.eval(), tmp_path / "source")
    folder = export(tmp_path / "source", tmp_path / "out", writer=FORMATS["transformers"]).folder
    texts = ["A photo of 2 dogs!", "l'été, it's 30° outside", "x" * 300, "日本語 text"]
    theirs = stock_embeddings(folder, texts, pictures)
    assert difference(theirs, embedded(model, texts, pictures)) < TIGHT
    assert difference(theirs, stock_open_clip(tmp_path / "source", texts, pictures)) < TIGHT
    again = load(folder)
    assert difference(embedded(again, texts, pictures), theirs) < TIGHT
    assert again.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_positions_of_a_loaded_model_interpolate_where_another_size_is_asked_for(
    tiny_siglip: Path, tiny_clip: Path, texts: list[str], pictures: list
):
    for folder, size, longer in ((tiny_siglip, 48, 20), (tiny_clip, 56, 30)):
        model = load(folder)
        before = model.embed_images(pictures)
        model.set_image_size(size)
        model.set_context_length(longer)
        assert (model.spec.size, model.tokenizer.context_length) == ((size, size), longer)
        after = model.embed_images(pictures)
        assert after.shape == before.shape
        assert 0.3 < float((after * before).sum(-1).min()) < 1 - 1e-6
        assert model.embed_texts(texts).isfinite().all()
