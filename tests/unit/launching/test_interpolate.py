"""`mmclip interpolate` and `mmclip average`: models between models, scored as `mmclip eval` scores them once they are saved."""

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmclip.errors import UserError
from mmclip.release import interpolate as mixed
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import WEIGHTS_FILE, save_weights
from mmclip_launch import average, evaluate, interpolate
from mmclip_launch.cli import run_verb
from mmclip_launch.interpolate import alphas_of

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "grey": (120, 120, 120)}
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def write_model(folder: Path, seed: int, cfg: dict[str, Any] = MODEL_CFG, scale: float = 2.0) -> None:
    torch.manual_seed(seed)
    model = TwoTower(cfg)
    torch.nn.init.constant_(model.logit_scale, scale)
    folder.mkdir()
    save_weights(model, folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for name, seed, scale in (("a", 0, 2.0), ("b", 1, 4.0), ("c", 2, 3.0)):
        write_model(place / name, seed, scale=scale)
    longer = {**MODEL_CFG, "text_cfg": {**MODEL_CFG["text_cfg"], "context_length": 9}}
    write_model(place / "longer", 3, longer)
    write_model(place / "quick", 3, {**MODEL_CFG, "quick_gelu": True})
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with models and two sets of labelled pictures."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for shade in range(3):
            for dataset, step in (("colours", 40), ("dark", 70)):
                path = tmp_path / dataset / name / f"{shade}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40 + number), tuple(max(0, value - step * shade) for value in colour)).save(path)
    (tmp_path / "suite.toml").write_text(
        '[[datasets]]\nname = "colours"\npath = "colours"\ntemplates = "simple"\n\n'
        '[[datasets]]\nname = "dark"\npath = "dark"\ntemplates = "none"\n'
    )
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def between(*arguments: str) -> int:
    return run_verb(interpolate.main, ["a", "b", "--output", "out", "--no-cache", *arguments])


def curve(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "interpolation.json").read_text())


def test_the_figures_of_the_curve_are_those_of_mmclip_eval_on_the_saved_model(place: Path):
    assert between("--suite", "suite.toml", "--alpha", "0", ".3", "1", "--save", ".3") == 0
    saved = place / "out" / "alpha-0.3"
    assert run_verb(evaluate.main, [str(saved), "--suite", "suite.toml", "--output", "eval", "--no-report"]) == 0
    measured = {r["dataset"]: r for r in (json.loads(path.read_text()) for path in (place / "eval").glob("*.json"))}
    (point,) = (point for point in curve(place / "out")["points"] if point["alpha"] == 0.3)
    assert len(point["figures"]) == 2
    for figure in point["figures"]:
        own = measured[figure["dataset"]]
        assert own["metrics"][figure["metric"]] == figure["value"]
        assert own["intervals"][figure["metric"]] == [figure["low"], figure["high"]]
        assert own["checkpoint"]["weights_sha256"] == point["weights_sha256"]
    values = [figure["value"] for figure in point["figures"]]
    assert math.isclose(point["sum"], sum(values))
    assert math.isclose(point["mean"]["value"], sum(values) / 2)
    half = math.hypot(*(figure["high"] - figure["value"] for figure in point["figures"])) / 2
    assert math.isclose(point["mean"]["high"] - point["mean"]["value"], half, abs_tol=1e-12)


def test_the_saved_model_is_the_mean_of_the_files_and_opens_in_stock_open_clip(place: Path):
    assert between("--suite", "suite.toml", "--alpha", ".25", "--save", ".25", "best") == 0
    a, b, c = (load_file(place / name / WEIGHTS_FILE) for name in ("a", "b", "out/alpha-0.25"))
    for name, tensor in c.items():
        wanted = (0.75 * a[name].double() + 0.25 * b[name].double()).float()
        assert torch.equal(tensor, wanted), name
    assert math.isclose(float(c["logit_scale"]), 0.75 * 2.0 + 0.25 * 4.0)  # the logarithm, as open_clip holds it
    stock, _, _ = open_clip.create_model_and_transforms(f"local-dir:{place / 'out' / 'alpha-0.25'}")
    state = stock.state_dict()
    assert torch.equal(state["visual.proj"], c["visual.proj"])


def test_the_best_by_the_mean_is_named_beside_both_ends_and_drawn(place: Path, capsys: pytest.CaptureFixture[str]):
    assert between("--suite", "suite.toml", "--alpha", "0", ".2", "...", "1", "--save", "best") == 0
    found = curve(place / "out")
    assert [point["alpha"] for point in found["points"]] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    means = {point["alpha"]: point["mean"]["value"] for point in found["points"]}
    best = found["best"]["alpha"]
    assert means[best] == max(means.values())
    assert [end["alpha"] for end in found["ends"]] == [0, 1]
    assert (place / "out" / f"alpha-{best:g}" / "mixture.json").is_file()
    said = capsys.readouterr().err
    assert f"best by the mean: alpha {best:g} with {means[best]:.4f}" in said
    assert f"A (0) {means[0]:.4f}" in said
    assert f"B (1) {means[1]:.4f}" in said
    page = (place / "out" / "report" / "interpolation.html").read_text()
    assert page.count("<svg") == 3  # the mean and each set
    assert f"best: {best:g}" in page
    assert f"{means[0]:.4f} (" in page


def test_the_ends_are_scored_though_they_were_not_asked_for(place: Path):
    assert between("--suite", "suite.toml", "--alpha", ".5") == 0
    assert [point["alpha"] for point in curve(place / "out")["points"]] == [0, 0.5, 1]


def test_models_of_another_kind_are_refused_by_the_setting_that_differs(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    for other, words in (
        ("longer", "differ in their architecture: text_cfg.context_length is 8 and 9"),
        ("quick", "differ in their architecture: quick_gelu is False and True"),
    ):
        assert run_verb(interpolate.main, ["a", other, "--output", "out", "--suite", "suite.toml"]) == 2
        assert words in capsys.readouterr().err
    other = place / "shifted"
    other.mkdir()
    for path in (place / "b").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert run_verb(interpolate.main, ["a", "shifted", "--output", "out", "--suite", "suite.toml"]) == 2
    assert "differ in their preprocessing: mean is" in capsys.readouterr().err


def test_two_files_of_tensors_are_interpolated_as_they_are(place: Path, capsys: pytest.CaptureFixture[str]):
    a, b = ({"x": torch.randn(3), "n": torch.arange(2)} for _ in range(2))
    save_file(a, place / "a.safetensors")
    torch.save({"state_dict": b}, place / "b.pt")
    arguments = ["a.safetensors", "b.pt", "--output", "files"]
    assert run_verb(interpolate.main, [*arguments, "--save", ".1", ".7"]) == 0
    for alpha in (0.1, 0.7):
        found = load_file(place / "files" / f"alpha-{alpha}.safetensors")
        assert torch.equal(found["x"], mixed(a, b, alpha)["x"])
        assert torch.equal(found["n"], torch.arange(2))
    assert run_verb(interpolate.main, arguments) == 2
    assert "give --save ALPHA" in capsys.readouterr().err


def test_a_file_that_would_run_code_is_refused_and_runs_none(place: Path, capsys: pytest.CaptureFixture[str]):
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (place / "ran",)

    torch.save({"x": Evil()}, place / "evil.pt")
    save_file({"x": torch.zeros(1)}, place / "a.safetensors")
    assert run_verb(interpolate.main, ["a.safetensors", "evil.pt", "--output", "files", "--save", ".5"]) == 2
    assert "evil.pt holds more than tensors" in capsys.readouterr().err
    assert not (place / "ran").exists()


@pytest.mark.parametrize(
    ("words", "alphas"),
    [
        (["0", ".1", "...", "1"], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ([".5"], [0.5]),
        (["0", "0.25", "...", "0.6"], [0.0, 0.25, 0.5, 0.6]),
    ],
)
def test_a_sequence_has_decimal_steps(words: list[str], alphas: list[float]):
    assert alphas_of(words, "--alpha") == alphas


@pytest.mark.parametrize("words", [["...", "1"], ["0", "...", "1"], ["0", ".1", "..."], ["1", ".5", "...", "2"], ["x"]])
def test_a_sequence_that_is_none_is_refused(words: list[str]):
    with pytest.raises(UserError, match="^--alpha"):
        alphas_of(words, "--alpha")


def test_a_uniform_soup_is_the_mean_of_its_sources(place: Path):
    assert run_verb(average.main, ["a", "b", "c", "soup"]) == 0
    parts = [load_file(place / name / WEIGHTS_FILE) for name in ("a", "b", "c")]
    soup = load_file(place / "soup" / WEIGHTS_FILE)
    for name, tensor in soup.items():
        wanted = torch.stack([part[name].double() for part in parts]).mean(0)
        assert torch.allclose(tensor.double(), wanted, rtol=0, atol=1e-7), name
    assert run_verb(average.main, ["a", "b", "weighted", "--weights", ".25", ".75"]) == 0
    weighted = load_file(place / "weighted" / WEIGHTS_FILE)["visual.proj"]
    assert torch.equal(weighted, mixed(parts[0], parts[1], 0.75)["visual.proj"])


def test_a_greedy_soup_takes_in_what_does_not_lower_the_score(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run_verb(average.main, ["a", "b", "c", "soup", "--greedy", "--suite", "suite.toml", "--no-cache"]) == 0
    table = json.loads((place / "soup" / "mixture.json").read_text())
    alone = {}
    for name in ("a", "b", "c"):
        assert run_verb(evaluate.main, [name, "--suite", "suite.toml", "--output", f"r/{name}", "--no-report"]) == 0
        scores = [json.loads(path.read_text())["metrics"]["acc1"] for path in (place / "r" / name).glob("*.json")]
        alone[name] = sum(scores) / len(scores)
    assert table["score"] >= max(alone.values())
    members = [part["source"] for part in table["of"] if part["weight"]]
    assert max(alone, key=lambda name: alone[name]) in members
    assert {part["weight"] for part in table["of"]} <= {0.0, 1 / len(members)}
    assert run_verb(evaluate.main, ["soup", "--suite", "suite.toml", "--output", "r/soup", "--no-report"]) == 0
    scores = [json.loads(path.read_text())["metrics"]["acc1"] for path in (place / "r" / "soup").glob("*.json")]
    assert math.isclose(sum(scores) / len(scores), table["score"])
    capsys.readouterr()
    assert run_verb(average.main, ["a", "b", "soup", "--weights", ".5", ".6"]) == 2
    assert "the sum is 1.1; expected 1" in capsys.readouterr().err
