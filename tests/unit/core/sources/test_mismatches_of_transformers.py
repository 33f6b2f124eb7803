"""What does not fit together in a folder of transformers is an error that names it; nothing becomes a wrong number."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mmclip.errors import UserError
from mmclip.release import export, load
from mmclip.release.formats import FORMATS
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights

CLIP, SIGLIP = "tiny_clip", "tiny_siglip"


@pytest.mark.parametrize(
    ("fixture", "change", "message"),
    [
        (CLIP, {"text_config__hidden_act": "relu"}, r"text_config\.hidden_act='relu' has no equal in open_clip"),
        (
            CLIP,
            {"text_config__hidden_act": "gelu"},
            r"'quick_gelu' in vision_config and 'gelu' in text_config.*in both",
        ),
        (
            CLIP,
            {"text_config__max_position_embeddings": 30},
            r"positional_embedding should have shape \[30, 32\].*\[24, 32\]",
        ),
        (CLIP, {"text_config__vocab_size": 20}, r"the tokenizer has 37 tokens and the text tower embeds 20"),
        (CLIP, {"text_config__eos_token_id": 31}, r"reads a caption at id 31, which the tokenizer puts behind none"),
        (CLIP, {"text_config__attention_dropout": 0.1}, r"text_config\.attention_dropout=0\.1 has no equal"),
        (
            CLIP,
            {"vision_config__image_size": 48},
            r"image processor resizes to .*40.*, and the image tower takes 48 x 48",
        ),
        (
            CLIP,
            {"vision_config__num_hidden_layers": 3},
            r"it lacks vision_model\.encoder\.layers\.2\.\w+.*\(16 in all\)",
        ),
        (
            CLIP,
            {"vision_config__num_hidden_layers": 1},
            r"unknown vision_model\.encoder\.layers\.1\.\w+.*\(16 in all\)",
        ),
        (CLIP, {"vision_config__hidden_size": 33}, r"config\.json is no configuration of clip: .*33"),
        (CLIP, {"model_type": "blip"}, r"model_type 'blip' is no model of two towers.*clip or siglip"),
        (CLIP, {"model_type": "siglip2"}, r"a NaFlex model of SigLIP 2.*fixed resolution"),
        (SIGLIP, {"vision_config__vision_use_head": False}, r"vision_config\.vision_use_head=False has no equal"),
        (
            SIGLIP,
            {"vision_config__layer_norm_eps": 1e-5},
            r"vision_config\.layer_norm_eps=1e-05 has no equal.*only 1e-06",
        ),
        (SIGLIP, {"text_config__projection_size": 40}, r"text_config\.projection_size=40 has no equal"),
    ],
)
def test_a_setting_that_fits_nothing_is_named(
    fixture: str, change: dict, message: str, changed_copy: Callable[..., Path], request: pytest.FixtureRequest
):
    folder = changed_copy(request.getfixturevalue(fixture), "config.json", **change)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_the_old_end_token_of_clip_is_read_as_transformers_reads_it(
    make_clip: Callable[..., Path], stock_embeddings: Callable, texts: list[str], pictures: list, tmp_path: Path
):
    folder = make_clip(tmp_path / "old", eos_token_id=2)
    _, theirs = stock_embeddings(folder, texts, pictures)
    model = load(folder)
    assert "pool_type" not in model.model_cfg["text_cfg"]
    assert (model.embed_texts(texts) - theirs).abs().max() < 1e-5


def test_an_end_token_in_the_middle_of_the_vocabulary_is_found(
    tiny_clip: Path, stock_embeddings: Callable, texts: list[str], pictures: list, tmp_path: Path
):
    """A token added behind the end token: the highest id is no more the end."""
    folder = shutil.copytree(tiny_clip, tmp_path / "added")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    model = transformers.CLIPModel.from_pretrained(folder)
    model.text_model.resize_token_embeddings(len(tokenizer))
    model.config.text_config.vocab_size = len(tokenizer)  # pyright: ignore
    model.save_pretrained(folder)
    with_extra = ["a <extra> cat", *texts]
    _, theirs = stock_embeddings(folder, with_extra, pictures)
    ours = load(folder)
    assert ours.model_cfg["text_cfg"]["pool_type"] == "eos"
    assert (ours.embed_texts(with_extra) - theirs).abs().max() < 1e-5
    back = export(folder, tmp_path / "back", writer=FORMATS["transformers"]).folder
    assert (stock_embeddings(back, with_extra, pictures)[1] - theirs).abs().max() < 1e-5


def test_the_tokenizer_of_another_model_is_refused(tiny_clip: Path, tiny_siglip: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_clip, tmp_path / "swapped")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_siglip / name, folder / name)
    with pytest.raises(UserError, match=r"reads a caption at its highest id, and the tokenizer ends it with 1"):
        load(folder)


def test_a_checkpoint_with_the_tokenizer_of_another_model_is_refused(
    tiny_clip: Path, tiny_siglip: Path, tmp_path: Path
):
    (tmp_path / "saved").mkdir()
    save_weights(load(tiny_siglip), tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_clip / name, tmp_path / "saved" / name)
    with pytest.raises(UserError, match=r"saved: the tokenizer has 37 tokens and the text tower embeds 14"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "model.safetensors", "config.json"])
def test_a_missing_file_is_named(name: str, tiny_clip: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_clip, tmp_path / "lacking")
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"tokenizer|how pictures are prepared|holds no weights|config\.json"):
        load(f"transformers:{folder}")


def test_cut_and_lacking_weights_are_named(tiny_clip: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_clip, tmp_path / "cut")
    weights = folder / "model.safetensors"
    whole = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read as weights.*cut short or damaged"):
        load(folder)
    save_file({name: value for name, value in whole.items() if name != "visual_projection.weight"}, weights)
    with pytest.raises(UserError, match=r"it lacks visual_projection\.weight \(1 in all\)"):
        load(folder)


def test_an_adapter_is_no_model(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match=r"holds an adapter \(adapter_config\.json\).*merge it into its base model"):
        load(tmp_path)


def test_weights_in_several_files_are_one_model(tiny_clip: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_clip, tmp_path / "sharded")
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, some in parts.items():
        save_file({name: whole[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    texts = ["a cat", "two dogs"]
    assert torch.equal(load(folder).embed_texts(texts), load(tiny_clip).embed_texts(texts))


def test_a_repository_in_the_hubs_cache_opens_by_its_layout(
    tiny_clip: Path, tiny_siglip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "open").mkdir()
    save_weights(load(tiny_siglip), tmp_path / "open")
    for name, folder in (("clip", tiny_clip), ("open", tmp_path / "open")):
        repository = tmp_path / f"models--mmclip--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    assert torch.equal(load("hf-hub:mmclip/clip").embed_texts(["a cat"]), load(tiny_clip).embed_texts(["a cat"]))
    assert torch.equal(load("hf-hub:mmclip/open").embed_texts(["a cat"]), load(tiny_siglip).embed_texts(["a cat"]))
    assert load("transformers:mmclip/clip").model_cfg["text_cfg"]["hf_tokenizer_name"] == "mmclip/clip"
    with pytest.raises(UserError, match=r"'mmclip/none' could not be downloaded from the Hugging Face Hub"):
        load("hf-hub:mmclip/none")


def test_an_unknown_kind_of_source_is_named():
    with pytest.raises(UserError, match=r"'tmim:x': tmim: is no kind of source; expected a run, a checkpoint"):
        load("tmim:x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vision_cfg": {"ls_init_value": 0.1}},
            r"vision_cfg\.ls_init_value=0\.1: CLIPModel of transformers has no such",
        ),
        ({"vision_cfg": {"pool_type": "avg"}}, r"vision_cfg\.pool_type='avg': CLIPModel"),
        ({"text_cfg": {"pool_type": "last"}}, r"text_cfg\.pool_type='last': CLIPModel of transformers reads"),
        ({"init_logit_bias": -10.0}, r"CLIPModel of transformers has no logit bias"),
        (
            {"vision_cfg": {"timm_model_name": "test_vit", "timm_proj": "linear"}},
            r"'test_vit': SiglipModel has no such tower",
        ),
    ],
)
def test_what_transformers_has_no_part_for_is_not_exported(changes: dict, message: str, tmp_path: Path):
    table = model_cfg_of("nano-vit-32")
    for name, value in changes.items():
        table[name] = {**table[name], **value} if isinstance(value, dict) else value
    (tmp_path / "source").mkdir()
    save_weights(TwoTower(table), tmp_path / "source")
    with pytest.raises(UserError, match=rf"{message}.*nothing was written. --format open_clip"):
        export(tmp_path / "source", tmp_path / "out", writer=FORMATS["transformers"])
    assert not (tmp_path / "out").exists()
