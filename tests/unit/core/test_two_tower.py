import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import mmclip
from mmclip.errors import UserError
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.presets import PRESETS
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import load_weights, save_weights

TEXTS = ["a cat", "two very small dogs that run across a green field", "x", "", "red apple " * 40]


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)) for i in range(count)]


@pytest.fixture(scope="module")
def model() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(model_cfg_of("nano-vit-32")).eval()


TEXT_FAMILIES = {
    "causal, end token by highest id": {},
    "causal, end token by id": {"pool_type": "eos", "eos_id": 49407},
    "linear projection with bias": {"proj_bias": True},
    "no projection": {"proj_type": "none"},
    "no causal mask, last token (SigLIP)": {"no_causal_mask": True, "pool_type": "last"},
    "class token at the end (CoCa's text)": {"embed_cls": True},
}


@pytest.mark.parametrize("custom", [False, True], ids=["flat", "custom_text"])
@pytest.mark.parametrize("settings", TEXT_FAMILIES.values(), ids=TEXT_FAMILIES.keys())
def test_short_text_equals_the_padded_stock_tower(settings: dict, custom: bool):
    if settings.get("embed_cls") and not custom:
        pytest.skip("open_clip's flat class has no class token")
    cfg = model_cfg_of("nano-vit-32")
    cfg["text_cfg"] |= settings
    cfg["custom_text"] = custom
    if settings.get("proj_type") == "none":
        cfg["embed_dim"] = cfg["text_cfg"]["width"]
    ours = TwoTower(cfg).double().eval()
    tokens = ours.tokenizer(TEXTS[:3])
    short = ours.trim(tokens)
    assert ours.trims_text == (short.shape[1] < tokens.shape[1])
    with torch.no_grad():
        assert torch.allclose(ours.encode_text(short), ours.backbone.encode_text(tokens), atol=1e-12)


def test_trimmed_width_is_that_of_the_longest_caption(model: TwoTower):
    tokens = model.tokenizer(["a cat", "a b c d"])
    assert model.trim(tokens).shape == (2, 6)


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_folder_opens_with_stock_open_clip_and_embeds_the_same(preset: str, tmp_path: Path):
    torch.manual_seed(1)
    ours = TwoTower(model_cfg_of(preset)).eval()
    save_weights(ours, tmp_path)
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    images = pictures(3)
    with torch.no_grad():
        image_embed = F.normalize(stock.eval().encode_image(torch.stack([transform(i) for i in images])), dim=-1)
        text_embed = F.normalize(stock.encode_text(tokenizer(TEXTS)), dim=-1)
    assert (ours.embed_images(images) - image_embed).abs().max() < 1e-5
    assert (ours.embed_texts(TEXTS) - text_embed).abs().max() < 1e-5


def test_saved_folder_holds_no_pickle_and_0_d_scalars(model: TwoTower, tmp_path: Path):
    from safetensors import safe_open

    save_weights(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    with safe_open(tmp_path / "open_clip_model.safetensors", "pt") as file:
        assert file.get_tensor("logit_scale").shape == ()
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is False


def test_loaded_weights_are_the_saved_ones(model: TwoTower, tmp_path: Path):
    save_weights(model, tmp_path)
    again = load_weights(tmp_path)
    assert again.spec == model.spec
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_sigmoid_models_keep_their_bias_for_stock_open_clip(tmp_path: Path):
    cfg = model_cfg_of("nano-vit-32") | {"init_logit_bias": -10.0}
    ours = TwoTower(cfg)
    with torch.no_grad():
        ours.logit_bias.fill_(-7.5)
    save_weights(ours, tmp_path)
    assert open_clip.create_model(f"local-dir:{tmp_path}").logit_bias.item() == -7.5


def test_weights_of_another_architecture_are_refused_by_name(model: TwoTower, tmp_path: Path):
    save_weights(model, tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is of another architecture .*lacks \S*resblocks\.1\S* and 23 more"):
        load_weights(tmp_path)


def test_cut_weights_are_refused(model: TwoTower, tmp_path: Path):
    save_weights(model, tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as weights .*copy it again"):
        load_weights(tmp_path)


def test_unknown_architecture_names_the_nearest():
    with pytest.raises(UserError, match=r"ViT-B-33.*nearest: ViT-B-32"):
        model_cfg_of("ViT-B-33")


@pytest.mark.parametrize("arch", ["RN50", "ViT-B-32-quickgelu", "convnext_base", "ViT-B-16-SigLIP"])
def test_open_clips_own_architectures_are_known(arch: str):
    assert set(model_cfg_of(arch)) >= {"embed_dim", "vision_cfg", "text_cfg"}


def test_model_with_a_decoder_is_refused():
    with pytest.raises(UserError, match="CoCa"):
        TwoTower(model_cfg_of("coca_ViT-B-32"))


def test_impossible_table_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"cannot build.*no_such_tower"):
        TwoTower({"embed_dim": 8, "vision_cfg": {"timm_model_name": "no_such_tower"}, "text_cfg": {}})


def test_embedding_restores_the_training_mode(model: TwoTower):
    model.train()
    model.backbone.ln_final.eval()
    model.embed_texts(["a"])
    assert model.training
    assert not model.backbone.ln_final.training
    model.eval()


def test_embeddings_do_not_depend_on_their_neighbours(model: TwoTower):
    images = pictures(3)
    together, alone = model.embed_images(images), model.embed_images(images[2:])
    assert torch.allclose(together[2:], alone, atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))


def test_pictures_may_be_files(model: TwoTower, tmp_path: Path):
    (image,) = pictures(1)
    image.save(tmp_path / "a.png")
    assert torch.equal(model.embed_images([tmp_path / "a.png"]), model.embed_images([image]))
    with pytest.raises(UserError, match="none.png cannot be read"):
        model.embed_images([tmp_path / "none.png"])


def test_zero_shot_probabilities_follow_the_cosines(model: TwoTower):
    images, names = pictures(2), ["cat", "dog", "red apple"]
    prediction = model.zero_shot(images, names)
    cosines = model.embed_images(images) @ model.embed_texts(names).T
    expected = (cosines * model.logit_scale.exp().item()).softmax(dim=1)
    assert torch.allclose(prediction.probabilities, expected, atol=1e-6)
    best = names[int(expected[1].argmax())]
    assert prediction.top(1)[1][0][0] == best
    assert [len(row) for row in prediction.top(9)] == [3, 3]


def test_zero_shot_averages_templates(model: TwoTower):
    images, templates = pictures(1), ["a {}", "{} drawn"]
    mean = F.normalize(model.embed_texts(["a cat", "cat drawn"]).mean(0), dim=0)
    other = F.normalize(model.embed_texts(["a dog", "dog drawn"]).mean(0), dim=0)
    logits = model.embed_images(images) @ torch.stack([mean, other]).T * model.logit_scale.exp().item()
    assert torch.allclose(
        model.zero_shot(images, ["cat", "dog"], templates).probabilities, logits.softmax(1), atol=1e-6
    )


def test_top_level_load_opens_a_folder(model: TwoTower, tmp_path: Path):
    save_weights(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = mmclip.load(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.embed_texts(["a"]), model.embed_texts(["a"]))
    assert torch.equal(mmclip.load(f"local-dir:{tmp_path}").embed_texts(["a"]), model.embed_texts(["a"]))


def test_load_says_what_it_looked_for(tmp_path: Path):
    with pytest.raises(UserError, match="neither open_clip_config.json nor a whole checkpoint"):
        mmclip.load(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        mmclip.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no weights 'ViT-B-32/laion'.*nearest: ViT-B-32/"):
        mmclip.load("open_clip:ViT-B-32/laion")
