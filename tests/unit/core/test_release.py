"""Weights in: released tags (through open_clip's own registry and a hub cache that we fill), folders and runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.objectives import ClipConfig, ObjectiveContext, SiglipConfig
from mmclip.preprocess import ImageSpec
from mmclip.release import create, load
from mmclip.towers.architecture import ModelConfig, model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip.training.module import TrainingModule

ARCH = "ViT-B-32"
TEXTS = ["a cat", "two dogs"]


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> TwoTower:
    """A model whose architecture stands in for ViT-B-32 in open_clip's registry, which would take 600 MB."""
    cfg = model_cfg_of("nano-vit-32")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCH, cfg)
    torch.manual_seed(3)
    return TwoTower(cfg | {"quick_gelu": True}).eval()


def register(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    entry = {"url": "", "hf_hub": "", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED[ARCH], "made_here", entry | settings)


def test_released_tag_brings_its_activation_and_preprocessing(
    nano: TwoTower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    save_weights(nano, tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    register(monkeypatch, file=str(weights), quick_gelu=True, resize_mode="squash")
    model = load(f"open_clip:{ARCH}/made_here")
    assert (model.spec.mean, model.spec.interpolation, model.spec.resize_mode) == ((0.5,) * 3, "bilinear", "squash")
    assert model.spec.size == (32, 32)
    assert model.model_cfg["quick_gelu"] is True
    assert torch.equal(model.embed_texts(TEXTS), nano.embed_texts(TEXTS))
    register(monkeypatch, file=str(weights), quick_gelu=False)
    assert not torch.allclose(
        load(f"open_clip:{ARCH}/made_here").embed_texts(TEXTS), nano.embed_texts(TEXTS), atol=1e-5
    )


def test_released_tag_comes_from_the_hubs_cache(nano: TwoTower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    repository = tmp_path / "models--mmclip--made"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({k: v.reshape(()) if k == "logit_scale" else v for k, v in nano.backbone.state_dict().items()},
              snapshot / "open_clip_model.safetensors")  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    register(monkeypatch, hf_hub="mmclip/made/", quick_gelu=True)
    assert torch.equal(load(f"open_clip:{ARCH}/made_here").embed_texts(TEXTS), nano.embed_texts(TEXTS))


def test_a_training_checkpoint_of_open_clip_loads_by_architecture_and_file(nano: TwoTower, tmp_path: Path):
    state = {f"module.{k}": v.reshape(()) if k == "logit_scale" else v for k, v in nano.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(nano.backbone.parameters()).state_dict()
    torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": optimizer}, tmp_path / "epoch_3.pt")
    loaded = load(f"open_clip:{ARCH}/{tmp_path}/epoch_3.pt")
    assert loaded.spec == ImageSpec(size=(32, 32))
    for name, tensor in nano.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[name], tensor)
    (tmp_path / "torn.pt").write_bytes((tmp_path / "epoch_3.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"torn\.pt"):
        load(f"open_clip:{ARCH}/{tmp_path}/torn.pt")


def test_unreachable_weights_are_one_message(nano: TwoTower, monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch, hf_hub="mmclip/nothing-is-here/")
    with pytest.raises(UserError, match=rf"open_clip:{ARCH}/made_here could not be downloaded.*local-dir:FOLDER"):
        load(f"open_clip:{ARCH}/made_here")


def test_run_starts_from_a_folder_with_its_architecture_and_preprocessing(nano: TwoTower, tmp_path: Path):
    save_weights(nano, tmp_path)
    model = create(ModelConfig(arch="tiny-resnet-48", init=f"local-dir:{tmp_path}"), needs_logit_bias=False)
    assert model.training
    assert model.model_cfg["vision_cfg"] == nano.model_cfg["vision_cfg"]
    assert torch.equal(model.embed_texts(TEXTS), nano.embed_texts(TEXTS))


def test_a_file_of_a_folder_is_answered_with_the_folder(nano: TwoTower, tmp_path: Path):
    save_weights(nano, tmp_path)
    with pytest.raises(UserError, match=rf"open_clip_config\.json says how to read it: give the folder, {tmp_path}"):
        load(tmp_path / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ViT-B-32,laion2b_s34b_b79k", r"did you mean open_clip:ViT-B-32/laion2b_s34b_b79k\?$"),
        ("ViT-B-32/openai", r"did you mean open_clip:ViT-B-32/openai\?$"),
        ("ViT-B-32", r"did you mean open_clip:ViT-B-32/TAG\? its tags: openai, "),
        ("an-org/its-clip", r"hf-hub:an-org/its-clip$"),
        ("nothing", r"open_clip:ARCH/TAG$"),
    ],
)
def test_names_of_others_are_answered_with_the_source_that_is_meant(text: str, meant: str):
    with pytest.raises(UserError, match=meant):
        load(text)


def _remove_text(table: dict) -> None:
    del table["model_cfg"]["text_cfg"]


def _add_decoder(table: dict) -> None:
    table["model_cfg"]["multimodal_cfg"] = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove_text, r"open_clip_config\.json: model_cfg lacks text_cfg"),
        (_add_decoder, r"open_clip_config\.json: model_cfg is a CoCa model"),
        (
            lambda table: table["model_cfg"]["vision_cfg"].update(patch_size=0),
            "cannot build this model_cfg: ZeroDivision",
        ),
        (lambda table: table["model_cfg"]["vision_cfg"].update(layers=[]), "cannot build this model_cfg: IndexError"),
        (
            lambda table: table["model_cfg"]["vision_cfg"].update(timm_model_name=2),
            "timm_model_name=2: expected the name",
        ),
        (lambda table: table["model_cfg"]["text_cfg"].update(tokenizer_kwargs="x"), "tokenizer_kwargs='x': expected a"),
        (lambda table: table.update(preprocess_cfg="x"), "preprocess_cfg='x': expected open_clip's table"),
        (
            lambda table: table["preprocess_cfg"].update(interpolation="lanczos"),
            "interpolation='lanczos': expected bic",
        ),
        (
            lambda table: table["preprocess_cfg"].update(resize_mode=["squash"]),
            "resize_mode=.*: expected one of shortest",
        ),
        (lambda table: table["preprocess_cfg"].update(mean=[0.5]), r"mean=\[0\.5\]: expected three numbers"),
        (lambda table: table["preprocess_cfg"].update(std=[0.5, 0, 0.5]), "std=.*: expected three numbers above 0"),
        (lambda table: table["preprocess_cfg"].update(fill_color="white"), "fill_color='white': expected a grey level"),
    ],
)
def test_a_configuration_that_says_nonsense_is_named(nano: TwoTower, tmp_path: Path, change: Callable, message: str):
    save_weights(nano, tmp_path)
    path = tmp_path / "open_clip_config.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_weights_without_a_bias_get_one_for_the_sigmoid_loss_and_keep_it(nano: TwoTower, tmp_path: Path):
    (tmp_path / "a").mkdir()
    save_weights(nano, tmp_path / "a")
    model = create(ModelConfig(init=str(tmp_path / "a")), needs_logit_bias=True)
    assert model.logit_bias is not None
    assert model.logit_bias.tolist() == [-10.0]
    (tmp_path / "b").mkdir()
    save_weights(model, tmp_path / "b")
    assert open_clip.create_model(f"local-dir:{tmp_path / 'b'}").logit_bias.item() == -10.0


def test_fresh_models_start_where_their_paper_does():
    clip = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    siglip = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=True)
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert clip.logit_bias is None
    assert siglip.logit_scale.item() == pytest.approx(math.log(10))
    assert siglip.logit_bias is not None
    assert siglip.logit_bias.item() == -10.0


def test_start_of_scale_and_bias_can_be_set():
    model = create(ModelConfig(arch="nano-vit-32", logit_scale=20.0, logit_bias=-3.0), needs_logit_bias=True)
    assert model.logit_scale.item() == pytest.approx(math.log(20))
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -3.0
    with pytest.raises(ValueError, match="logit_scale=-1.0: expected a positive"):
        ModelConfig(arch="nano-vit-32", logit_scale=-1.0)


def test_inline_architecture_is_built_and_contradictions_are_refused(nano: TwoTower, tmp_path: Path):
    inline = model_cfg_of("nano-vit-32") | {"embed_dim": 48}
    assert create(ModelConfig(inline=inline), needs_logit_bias=False).embed_texts(["a"]).shape == (1, 48)
    save_weights(nano, tmp_path)
    with pytest.raises(ValueError, match=r"remove model\.inline"):
        ModelConfig(inline=inline, init=str(tmp_path))
    with pytest.raises(UserError, match="lacks text_cfg"):
        create(ModelConfig(inline={"embed_dim": 4, "vision_cfg": {}}), needs_logit_bias=False)


def test_a_bias_that_the_objective_ignores_is_frozen():
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=True)
    TrainingModule(towers, ClipConfig().build(), world_size=1)
    assert towers.logit_bias is not None
    assert not towers.logit_bias.requires_grad
    TrainingModule(towers, SiglipConfig().build(), world_size=1)
    assert towers.logit_bias.requires_grad


def test_sigmoid_objective_without_a_bias_is_refused():
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    with pytest.raises(UserError, match="needs a logit bias"):
        TrainingModule(towers, SiglipConfig().build(), world_size=1)


def test_a_batch_norm_that_cannot_be_synchronised_is_refused_by_name_on_several_ranks():
    class Own(torch.nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
            return super().forward(input) * 2

    towers = create(ModelConfig(arch="tiny-resnet-32"), needs_logit_bias=False)
    TrainingModule(towers, ClipConfig().build(), world_size=2)
    towers.backbone.visual.trunk.bn1 = Own(towers.backbone.visual.trunk.bn1.num_features)
    TrainingModule(towers, ClipConfig().build(), world_size=1)
    with pytest.raises(UserError, match=r"1 batch norms \(first: visual\.trunk\.bn1, Own\): on 2 ranks"):
        TrainingModule(towers, ClipConfig().build(), world_size=2)


def test_training_module_gives_the_loss_of_the_towers_output():
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    module = TrainingModule(towers, ClipConfig().build(), world_size=1)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tokens = towers.tokenizer(["a", "b", "c", "d"])
    outputs = towers(images, tokens)
    context = ObjectiveContext(step=0, samples_seen=DataPosition(0).samples_consumed)
    expected = (
        torch.nn.functional.cross_entropy(
            outputs.logit_scale * outputs.image_embed @ outputs.text_embed.T, torch.arange(4)
        )
        / 2
        + torch.nn.functional.cross_entropy(
            outputs.logit_scale * outputs.text_embed @ outputs.image_embed.T, torch.arange(4)
        )
        / 2
    )
    batch = ImageTextBatch(
        images=images,
        tokens=towers.trim(tokens),
        keys=torch.arange(4),
        ids=("a", "b", "c", "d"),
        position=DataPosition(4),
    )
    embeddings, output = module(batch, context)
    assert torch.allclose(output.loss, expected, atol=1e-6)
    assert torch.allclose(embeddings.image_embed, outputs.image_embed, atol=1e-6)
