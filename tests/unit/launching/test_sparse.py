"""`mmclip sparse`: from weights and shards to figures, an autoencoder and a page."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_eval.sparse.files import load_autoencoder
from mmclip_launch import sparse
from mmclip_launch.cli import run_verb

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COLOURS = {"red": (250, 0, 0), "green <b>": (0, 250, 0), "blue": (0, 0, 250), "grey": (120, 120, 120)}
EACH = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and eighty pictures in folders of their colour."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    (folder / "model").mkdir()
    save_weights(TwoTower(MODEL_CFG), folder / "model")
    for name, colour in COLOURS.items():
        for shade in range(EACH):
            path = folder / "colours" / name / f"{shade}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), tuple(max(0, value - 6 * shade) for value in colour)).save(path)
    return folder


def units_of(place: Path, *words: str, output: str = "out") -> int:
    return run_verb(
        sparse.main,
        [str(place / "model"), "--data", str(place / "colours"), "--output", str(place / output), "--no-cache", *words],
    )


def test_figures_autoencoder_and_page_are_written(place: Path, capsys: pytest.CaptureFixture[str]):
    assert units_of(place, "--k", "2", "--units", "24", "--steps", "30") == 0
    said = capsys.readouterr()
    assert "principal components" in said.out
    assert "24 units of width 16, fitted to 60 pictures, measured on 20" in said.err
    found = json.loads((place / "out" / "sparse.json").read_text(), parse_constant=pytest.fail)
    assert (found["units"], found["width"], found["rows"]) == (24, 16, {"fitted": 60, "held_out": 20})
    assert found["settings"]["form"] == "topk"
    assert found["held_out"]["mean_active"] <= 2
    assert len(found["held_out"]["density"]) == 24
    model, settings = load_autoencoder(place / "out" / "autoencoder")
    assert (model.units, model.k, settings.steps) == (24, 2, 30)
    for unit in found["shown_units"]:
        assert set(unit["names"]) <= set(COLOURS)
        assert unit["activations"] == sorted(unit["activations"], reverse=True)
        assert len(unit["samples"]) == len(unit["rows"]) == min(8, unit["fires"])
    page = (place / "out" / "report" / "sparse.html").read_text()
    assert "green &lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert page.count("data:image/webp") == sum(len(unit["rows"]) for unit in found["shown_units"])


def test_the_shown_activations_are_those_of_the_saved_autoencoder_on_the_model_itself(place: Path):
    assert units_of(place, "--k", "2", "--units", "24", "--steps", "30", output="again") == 0
    found = json.loads((place / "again" / "sparse.json").read_text())
    unit = found["shown_units"][0]
    autoencoder, _ = load_autoencoder(place / "again" / "autoencoder")
    picture = next(place.glob(f"colours/{unit['samples'][0].partition('/')[2]}*"), None)
    assert picture is not None, unit["samples"]
    model = load(str(place / "model"))
    embed = model.embed_uint8(model.spec.to_uint8(Image.open(picture).convert("RGB"))[None])
    embed = torch.nn.functional.normalize(embed, dim=-1)
    assert float(autoencoder.encode(embed)[0, unit["unit"]]) == pytest.approx(unit["activations"][0], abs=1e-4)


def test_the_l1_form_names_its_units_too(place: Path):
    assert units_of(place, "--form", "l1", "--l1", "0.05", "--steps", "30", output="l1") == 0
    found = json.loads((place / "l1" / "sparse.json").read_text())
    assert (found["settings"]["form"], found["settings"]["l1"], found["units"]) == ("l1", 0.05, 32)
    model, _ = load_autoencoder(place / "l1" / "autoencoder")
    assert model.k is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--k", "40", "--units", "24"), "k=40 active units of 24"),
        (("--steps", "0"), "steps=0: expected a whole number from 1 on"),
        (("--form", "l2"), "--form: invalid choice"),
        (("--unit", "3", "--kk", "4"), "--kk"),
        (("--class-names", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_cannot_be_is_one_message_and_code_2(
    words: tuple[str, ...], said: str, place: Path, capsys: pytest.CaptureFixture[str]
):
    assert units_of(place, *words, output="refused") == 2
    assert said in capsys.readouterr().err
    assert not (place / "refused" / "sparse.json").exists()


def test_too_few_pictures_are_refused_before_the_model_is_loaded(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for shade in range(5):
        path = tmp_path / "few" / "red" / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
    words = ["no-such-model", "--data", str(tmp_path / "few"), "--output", str(tmp_path / "out"), "--no-cache"]
    assert run_verb(sparse.main, words) == 2
    assert "5 rows of features: expected 64 at least" in capsys.readouterr().err
