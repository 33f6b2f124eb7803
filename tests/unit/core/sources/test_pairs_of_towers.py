"""`timm:NAME@FILE+hf:FOLDER`: each tower computes what its own library computes, and the pair opens again without them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from mmclip.errors import UserError
from mmclip.release import create, load
from mmclip.release.pairs.image_keys import LAYOUTS, blocks_in_order
from mmclip.release.pairs.image_tower import read_image_tower
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.settings import LoraTable, TowersConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's smallest residual network, classifier included, with batch norms that are not those at birth."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", pretrained=False).train()
    model(torch.randn(4, 3, 64, 64))
    path = tmp_path_factory.mktemp("image") / "test_resnet.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def pair(image_file: Path, tiny_bert: Path) -> TwoTower:
    return load(f"timm:test_resnet@{image_file}+hf:{tiny_bert}#image_size=48,embed_dim=24")


def mean_of_masked(folder: Path, texts: list[str]) -> torch.Tensor:
    """What sentence-transformers computes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    mask = batch.attention_mask[..., None]
    with torch.no_grad():
        return (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def test_the_text_tower_is_the_mean_over_a_caption_of_the_encoder(pair: TwoTower, tiny_bert: Path, texts: list[str]):
    pair.backbone.text.proj = nn.Identity()
    with torch.no_grad():
        ours = pair.encode_text(pair.tokenizer(texts))
    assert (ours - mean_of_masked(tiny_bert, texts)).abs().max() < 1e-5
    assert pair.tokenizer.context_length == 20


def test_the_image_tower_is_that_of_the_file(pair: TwoTower, image_file: Path):
    theirs = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    state = torch.load(image_file, weights_only=True)
    theirs.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")}, strict=True)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(pair.backbone.visual.trunk(pixels), theirs(pixels))
    settings: Any = theirs.pretrained_cfg
    assert (pair.spec.mean, pair.spec.std) == (tuple(settings["mean"]), tuple(settings["std"]))
    assert pair.spec.size == (48, 48)


def test_without_a_projection_an_image_is_what_its_tower_pools(image_file: Path, tiny_bert: Path):
    theirs: Any = timm.create_model("test_resnet", pretrained=False)
    theirs.load_state_dict(torch.load(image_file, weights_only=True))
    theirs.reset_classifier(0)
    width = theirs.num_features
    pair = load(f"timm:test_resnet@{image_file}+hf:{tiny_bert}#image_proj=none,embed_dim={width}")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(pair.encode_image(pixels), theirs.eval()(pixels))


def test_a_pair_opens_from_its_own_folder_when_the_encoders_is_gone(
    image_file: Path, tiny_bert: Path, tmp_path: Path, texts: list[str], pictures: list
):
    text_folder = shutil.copytree(tiny_bert, tmp_path / "text")
    pair = load(f"timm:test_resnet@{image_file}+hf:{text_folder}")
    (tmp_path / "saved").mkdir()
    save_weights(pair, tmp_path / "saved")
    shutil.rmtree(text_folder)
    again = load(tmp_path / "saved")
    assert torch.equal(again.embed_texts(texts), pair.embed_texts(texts))
    assert torch.equal(again.embed_images(pictures), pair.embed_images(pictures))
    assert again.model_cfg == pair.model_cfg | {"quick_gelu": False}


def test_adapters_alone_do_not_train_a_new_pair(image_file: Path, tiny_bert: Path):
    source = f"timm:test_resnet@{image_file}+hf:{tiny_bert}#image_size=48,embed_dim=24"
    towers = TowersConfig(lora=LoraTable(rank=2, towers="text"))
    with pytest.raises(UserError, match="projections that join .* new at random: train them first"):
        create(ModelConfig(init=source), False, towers)


def test_projections_are_those_of_the_seed(image_file: Path, tiny_bert: Path):
    def weights(options: str) -> torch.Tensor:
        return load(f"timm:test_resnet@{image_file}+hf:{tiny_bert}#{options}").backbone.visual.head.proj.weight

    torch.manual_seed(8)
    first = weights("seed=3")
    assert torch.equal(first, weights("seed=3"))
    assert not torch.equal(first, weights("seed=4"))
    assert first.shape[0] == 32, "as many as the text tower gives"


def test_a_run_starts_from_a_pair(image_file: Path, tiny_bert: Path):
    init = f"timm:test_resnet@{image_file}+hf:{tiny_bert}#embed_dim=16"
    model = create(ModelConfig(init=init, image_size=40, context_length=12), needs_logit_bias=True)
    assert (model.spec.size, model.tokenizer.context_length) == ((40, 40), 12)
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    assert model(images, model.tokenizer(["a cat", "two dogs"])).image_embed.shape == (2, 16)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:test_resnet+hf:{bert}#embed=3", r"#embed=3: expected one of embed_dim, image_proj"),
        ("timm:test_resnet@{file}+hf:{bert}#embed_dim=x", r"#embed_dim=x: expected an integer"),
        ("timm:test_resnet@{file}+hf:{bert}#pooler=best", r"pooler=best: expected one of mean, cls, pooled"),
        ("timm:test_resnet@{file}+hf:{bert}#image_proj=none", r"image tower gives \d+ numbers and embed_dim=32"),
        ("timm:test_resnet@{file}+hf:{bert}#context_length=99", r"context_length=99: bert of .* has 40 positions"),
        ("timm:test_resnet@{file}", r"is no pair of towers: expected timm:NAME\[@FILE\]\+hf:"),
        ("timm:test_resmet@{file}+hf:{bert}", r"timm has no model 'test_resmet'.*test_resnet"),
        ("timm:test_vit@{file}+hf:{bert}", r"in no known layout: expected those of timm's test_vit"),
        ("timm:test_resnet@/nowhere.pth+hf:{bert}", r"/nowhere.pth is no file"),
        ("timm:test_resnet@{file}+hf:/nowhere/at/all", r"/nowhere/at/all is no folder"),
    ],
)
def test_what_cannot_be_joined_is_named(source: str, message: str, image_file: Path, tiny_bert: Path):
    with pytest.raises(UserError, match=message):
        load(source.format(file=image_file, bert=tiny_bert))


def test_weights_that_lack_a_part_are_refused(image_file: Path, tiny_bert: Path, tmp_path: Path):
    state = torch.load(image_file, weights_only=True)
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(UserError, match=r"it lacks layer1\.0\.conv1\.weight \(1 in all\)"):
        load(f"timm:test_resnet@{tmp_path}/lacking.safetensors+hf:{tiny_bert}")


def test_an_encoder_with_the_tokenizer_of_another_model_is_refused(
    image_file: Path, tiny_bert: Path, changed_copy: Callable[..., Path]
):
    other_pad = changed_copy(tiny_bert, "config.json", pad_token_id=3)
    with pytest.raises(UserError, match="tokenizer pads with id 0 and the text tower masks id 3"):
        load(f"timm:test_resnet@{image_file}+hf:{other_pad}")
    gpt = changed_copy(tiny_bert, "config.json", model_type="gpt2")
    with pytest.raises(UserError, match="is of type 'gpt2': open_clip runs text encoders of roberta"):
        load(f"timm:test_resnet@{image_file}+hf:{gpt}")


def test_pooling_comes_from_the_notes_of_the_encoder(
    image_file: Path, tiny_bert: Path, tmp_path: Path, texts: list[str]
):
    folder = shutil.copytree(tiny_bert, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    pair = load(f"timm:test_resnet@{image_file}+hf:{folder}#text_proj=none")
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(**batch).last_hidden_state[:, 0]
        assert (pair.encode_text(pair.tokenizer(texts)) - expected).abs().max() < 1e-5
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(UserError, match="pools by pooling_mode_max_tokens"):
        load(f"timm:test_resnet@{image_file}+hf:{folder}")


def test_torchvisions_mobilenet_becomes_timms(tmp_path: Path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(2)
    theirs = models.mobilenet_v2(weights=None).train()
    theirs(torch.randn(2, 3, 64, 64))
    torch.save(theirs.eval().state_dict(), tmp_path / "mobilenet_v2.pth")
    tower = read_image_tower("mobilenetv2_100", tmp_path / "mobilenet_v2.pth")
    ours = timm.create_model("mobilenetv2_100", pretrained=False).eval()
    ours.load_state_dict(tower.tensors, strict=True)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert (ours(pixels) - theirs(pixels)).abs().max() < 1e-4
    with pytest.raises(UserError, match="layout of torchvision's MobileNetV2, whose models timm's test_vit does not"):
        read_image_tower("test_vit", tmp_path / "mobilenet_v2.pth")


def test_efficientnet_lites_names_become_timms(tmp_path: Path):
    """The names that the package's class has, given to timm's own weights: the way back has to find every one of them."""
    timms = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    layout = LAYOUTS[-1]
    parts = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    back = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    for number, (block, ours) in enumerate(blocks_in_order(list(timms)).items()):
        names = zip(ours, parts[-len(ours) :], strict=True)
        back |= {f"{block}.{our}": f"_blocks.{number}.{their}" for our, their in names}
    theirs = {f"{back[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in timms.items()}
    assert "_blocks.15._project_conv.weight" in theirs
    torch.save(theirs, tmp_path / "lite.pth")
    tower = read_image_tower("tf_efficientnet_lite0", tmp_path / "lite.pth")
    assert tower.tensors.keys() == timms.keys()
    assert all(torch.equal(tower.tensors[name], timms[name]) for name in timms)
    assert (tower.layout, tower.classifier) == (layout.name, "classifier")
    grey = torch.full((1, 3, 1, 1), 127, dtype=torch.uint8)
    assert tower.spec.normalise(grey).abs().max() < 1e-6, "(x - 127) / 128"
    assert tower.spec.normalise(grey + 128).sub(1).abs().max() < 1e-6
    with pytest.raises(UserError, match="timm's efficientnet_lite0 does not compute"):
        read_image_tower("efficientnet_lite0", tmp_path / "lite.pth")
