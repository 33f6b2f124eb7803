"""`mmclip compare` end to end on small models: what it writes, its exit codes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_launch.cli import dispatch, run_verb

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "grey": (120, 120, 120)}
SHADES = 8
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
}
WIDER = {**MODEL_CFG, "embed_dim": 24, "vision_cfg": {**MODEL_CFG["vision_cfg"], "layers": 3}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of one architecture, one that is the first's copy, one of another width and depth."""
    place = tmp_path_factory.mktemp("models")
    for name, seed, cfg in (("a", 0, MODEL_CFG), ("copy", 0, MODEL_CFG), ("b", 1, MODEL_CFG), ("wider", 3, WIDER)):
        torch.manual_seed(seed)
        model = TwoTower(cfg)
        (place / name).mkdir()
        save_weights(model, place / name)
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the models and a set of labelled pictures."""
    for name, colour in COLOURS.items():
        for shade in range(SHADES):
            path = tmp_path / "colours" / name / f"{shade}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), tuple(max(0, value - 20 * shade) for value in colour)).save(path)
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*words: str) -> int:
    return run_verb(dispatch, ["compare", *words, "--data", "colours", "--templates", "simple", "--no-cache"])


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text())


def test_the_same_weights_are_safe(place: Path):
    assert compare("a", "copy", "--output", "out") == 0
    found = result(place / "out")
    assert found["verdict"] == "safe"
    assert found["reasons"] == []
    towers = [panel["tower"] for panel in found["layers"]]
    assert towers[0] == "image"
    for one in found["figures"]:
        if one["figure"].startswith("representation.") or one["figure"] == "zero_shot.agreement":
            assert one["value"] == pytest.approx(one["ceiling"], abs=1e-9)
    page = (place / "out" / "index.html").read_text()
    assert "No answer flipped." in page


def test_another_model_of_another_shape_is_compared_too(place: Path, capsys: pytest.CaptureFixture[str]):
    code = compare("a", "wider", "--output", "out")
    found = result(place / "out")
    assert code == {"look": 5, "unsafe": 4}[found["verdict"]]
    assert "mmclip: " in capsys.readouterr().err
    image = found["layers"][0]
    assert len(image["a"]) == 5
    assert len(image["b"]) == 7
    assert len(image["cka"]) == 5
    assert not any(one["figure"] == "stored_embeddings.accuracy" for one in found["figures"]), "other widths"


def test_rules_of_a_file_decide(place: Path):
    lenient = '[[rule]]\nfigure = "zero_shot.agreement"\nsafe = 0.0\n'
    (place / "lenient.toml").write_text(lenient)
    (place / "strict.toml").write_text(lenient.replace("0.0", "1.1\nunsafe = 1.05"))
    (place / "look.toml").write_text(lenient.replace("0.0", "1.1"))
    assert compare("a", "b", "--output", "out", "--layers", "none", "--thresholds", "lenient.toml") == 0
    assert compare("a", "b", "--output", "out", "--layers", "none", "--thresholds", "strict.toml") == 4
    assert compare("a", "b", "--output", "out", "--layers", "none", "--thresholds", "look.toml") == 5
    assert compare("a", "b", "--output", "out", "--layers", "none", "--thresholds", "look.toml", "--accept-look") == 0


def test_embeddings_alone_are_compared_where_asked_for(place: Path):
    compare("a", "b", "--output", "out", "--layers", "embedding", "--rows", "24")
    image = result(place / "out")["layers"][0]
    assert image["a"] == image["b"] == ["embedding"]
    assert image["rows"] == 24


def test_independent_models_are_the_floor(place: Path):
    compare("a", "copy", "--output", "out", "--against", "b")
    found = result(place / "out")
    [cka] = [one for one in found["figures"] if one["figure"] == "representation.image.cka"]
    assert cka["floor_from"] == "1 independent model"
    assert found["against"] == ["b"]


def test_a_page_and_result_go_into_the_folder_of_b_where_none_is_given(place: Path, models: Path):
    assert compare("a", "copy", "--layers", "none") == 0
    assert (place / "copy" / "compare" / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "nowhere"), "nowhere"),
        (("a", "b", "--contrasim"), "expected at least 3 independent models"),
        (("a", "b", "--rows", "0"), "--rows 0: expected a number of samples from 1 on"),
        (("a", "b", "--thresholds", "none.toml"), "none.toml"),
        (("a", "b", "--thresholds", "typo.toml"), "did you mean 'zero_shot.agreement'"),
    ],
)
def test_what_cannot_be_compared_is_one_message(
    place: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    (place / "typo.toml").write_text('[[rule]]\nfigure = "zero_shot.agreeing"\nsafe = 0.5\n')
    assert compare(*words, "--output", "out") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (place / "out" / "comparison.json").exists()
