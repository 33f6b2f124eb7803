"""OpenAI's TorchScript archives and other single files: weights are read, code is not run, and no activation is guessed."""

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from mmclip.errors import UserError
from mmclip.release import load
from mmclip.release.by_shapes import model_cfg_by_shapes
from mmclip.towers.tensors import read_tensors
from mmclip.towers.torchscript import is_torchscript, uses_quick_gelu

CFG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning"
)


def archived(path: Path, **changes: object) -> open_clip.CLIP:
    """A traced model of open_clip's own, in half precision as OpenAI's are, and the model in single precision."""
    torch.manual_seed(4)
    model = open_clip.CLIP(**{**CFG, **changes}).eval()  # pyright: ignore
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 20, dtype=torch.int64)}
    traced = torch.jit.trace_module(model, inputs, check_trace=False)
    torch.jit.save(traced.half(), path)
    return model.float()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.CLIP]:
    path = tmp_path_factory.mktemp("openai") / "ViT-tiny.pt"
    return path, archived(path)


def test_an_archive_of_openai_brings_architecture_activation_and_weights(
    archive: tuple[Path, open_clip.CLIP], pictures: list
):
    path, stock = archive
    assert is_torchscript(path)
    model = load(path)
    assert model.model_cfg["quick_gelu"] is True
    assert model.tokenizer.context_length == 20
    pixels = torch.stack([model.spec.normalise(model.spec.to_uint8(p)[None])[0] for p in pictures])
    with torch.no_grad():
        image = stock.encode_image(pixels, normalize=True)
        text = stock.encode_text(model.tokenizer(["a cat", "two dogs"]), normalize=True)
    assert (model.embed_images(pictures) - image).abs().max() < 1e-5
    assert (model.embed_texts(["a cat", "two dogs"]) - text).abs().max() < 1e-5
    state = stock.state_dict()
    found = {name: tuple(t.shape) for name, t in read_tensors(path).items() if name != "attn_mask"}
    assert found == {name: tuple(t.shape) for name, t in state.items()}


def test_the_code_in_an_archive_tells_gelu_from_quick_gelu(archive: tuple[Path, open_clip.CLIP], tmp_path: Path):
    path, _ = archive
    archived(tmp_path / "gelu.pt", quick_gelu=False)
    assert (uses_quick_gelu(path), uses_quick_gelu(tmp_path / "gelu.pt")) == (True, False)
    assert load(tmp_path / "gelu.pt").model_cfg["quick_gelu"] is False


def test_an_archive_under_a_name_with_the_other_activation_is_refused(
    archive: tuple[Path, open_clip.CLIP], monkeypatch: pytest.MonkeyPatch
):
    path, _ = archive
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", CFG | {"quick_gelu": False})
    with pytest.raises(UserError, match=r"trained with QuickGELU and ViT-B-32 computes GELU.*ViT-B-32-quickgelu"):
        load(f"open_clip:ViT-B-32/{path}")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", CFG)
    assert load(f"open_clip:ViT-B-32-quickgelu/{path}").model_cfg["quick_gelu"] is True


def test_a_file_that_names_no_activation_is_refused_with_the_architectures_of_its_size(
    archive: tuple[Path, open_clip.CLIP], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    _, stock = archive
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-tiny-made-here", CFG)
    torch.save(stock.state_dict(), tmp_path / "plain.pt")
    save_file(stock.state_dict(), tmp_path / "plain.safetensors")
    for name in ("plain.pt", "plain.safetensors"):
        with pytest.raises(UserError, match=r"QuickGELU or GELU.*open_clip:ViT-tiny-made-here/.*plain"):
            load(tmp_path / name)
        assert load(f"open_clip:ViT-tiny-made-here/{tmp_path / name}").model_cfg["quick_gelu"] is True


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-L-14-336", "RN50-quickgelu", "RN50x4"])
def test_shapes_tell_the_architectures_that_openai_released(name: str):
    table = open_clip.get_model_config(name)
    assert table is not None
    given = {key: value for key, value in table.items() if key != "quick_gelu"}
    with torch.device("meta"):
        state = open_clip.CLIP(**given).state_dict()
    found = model_cfg_by_shapes(state, name)
    for part in ("vision_cfg", "text_cfg"):
        assert {key: found[part][key] for key in table[part] if key != "patch_size" or table[part][key]} == {
            key: value for key, value in table[part].items() if value is not None
        }
    assert found["embed_dim"] == table["embed_dim"]


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_is_never_run(archive: tuple[Path, open_clip.CLIP], tmp_path: Path, tiny_bert: Path):
    path, stock = archive
    marker = tmp_path / "ran"
    bomb = {**stock.state_dict(), "visual.proj": Evil(marker)}
    torch.save(bomb, tmp_path / "bomb.pt")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(bomb, protocol=2))
    wrapped = tmp_path / "wrapped.pt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(wrapped, "w") as changed:
        for name in whole.namelist():
            is_root = name.endswith("/data.pkl")
            changed.writestr(name, pickle.dumps({"visual": Evil(marker)}, protocol=2) if is_root else whole.read(name))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_bert / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes((tmp_path / "bomb.pt").read_bytes())
    sources = {
        str(tmp_path / "bomb.pt"): "holds more than tensors",
        str(tmp_path / "bomb.pkl"): "holds more than tensors",
        f"open_clip:ViT-B-32/{tmp_path / 'bomb.pt'}": "holds more than tensors",
        str(wrapped): "not in OpenAI's layout",
        f"timm:test_resnet@{tmp_path / 'bomb.pt'}+hf:{tiny_bert}": "holds more than tensors",
        f"timm:test_resnet@{tmp_path / 'bomb.pt'}+hf:{folder}": "holds more than tensors",
    }
    for source, message in sources.items():
        with pytest.raises(UserError, match=message):
            load(source)
        assert not marker.exists(), source
    pickle.loads((tmp_path / "bomb.pkl").read_bytes())  # noqa: S301  (the trap is a real one)
    assert marker.is_dir()


def test_damaged_archives_are_named(archive: tuple[Path, open_clip.CLIP], tmp_path: Path):
    path, _ = archive
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cut\.pt"):
        load(tmp_path / "cut.pt")
    short = tmp_path / "short.pt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(short, "w") as changed:
        for name in whole.namelist():
            data = whole.read(name)
            changed.writestr(name, data[:-2] if name.endswith("/data/3") else data)
    with pytest.raises(UserError, match=r"short\.pt cannot be read as a TorchScript archive.*storage 3 has \d+ bytes"):
        load(short)


def test_positions_of_another_length_are_an_error_instead_of_an_interpolation(
    archive: tuple[Path, open_clip.CLIP], monkeypatch: pytest.MonkeyPatch
):
    path, _ = archive
    longer = CFG | {"text_cfg": CFG["text_cfg"] | {"context_length": 32}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-longer", longer)
    with pytest.raises(
        UserError, match=r"positional_embedding has 20 positions and .* context_length asks for 32.*model\.c"
    ):
        load(f"open_clip:ViT-longer/{path}")
    larger = CFG | {"vision_cfg": CFG["vision_cfg"] | {"image_size": 64}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-larger", larger)
    with pytest.raises(UserError, match=r"visual\.positional_embedding has 17 positions and .* image_size asks for 65"):
        load(f"open_clip:ViT-larger/{path}")
    with_bias = CFG | {"init_logit_bias": -10.0}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-bias", with_bias)
    with pytest.raises(UserError, match="it lacks logit_bias"):
        load(f"open_clip:ViT-bias/{path}")
