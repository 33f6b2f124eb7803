"""`mmclip contrasim`: both tasks on tiny models and ninety pictures, end to end."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.contrasim.predict import contrasim_of
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_launch import contrasim
from mmclip_launch.cli import run_verb

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
}
NAMES = ("a", "b", "c", "d", "e")
PICTURES = 90
QUICK = ("--no-cache", "--device", "cpu", "--steps", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models, and pictures of which the last two have one caption."""
    folder = tmp_path_factory.mktemp("contrasim")
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        (folder / name).mkdir()
        save_weights(TwoTower(MODEL_CFG), folder / name)
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number in range(PICTURES):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (number * 37 % 256, number * 91 % 256, number * 5 % 256)).save(buffer, "PNG")
            caption = f"picture number {min(number, PICTURES - 2)}".encode()
            for extension, data in (("png", buffer.getvalue()), ("txt", caption)):
                member = tarfile.TarInfo(f"{number:03d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str) -> int:
    return run_verb(contrasim.main, words)


def strict(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in {path}"))


def test_layers_of_random_models_get_no_verdict_but_their_figures(here: Path, capsys: pytest.CaptureFixture[str]):
    words = ("layers", *NAMES, "--data", "pictures.tar", "--held-out", "b", "a", "--output", "out", *QUICK)
    assert command(*words) == 4
    told = capsys.readouterr()
    assert "ContraSim gives no verdict: " in told.err
    assert "held-out models" in told.out
    found = strict(here / "out" / "contrasim_layers.json")
    assert found["models"] == list(NAMES)
    assert found["held_out"] == [["a", "b"]]
    assert found["layers"] == ["block 1 mean", "block 2 mean"]
    assert (found["train_rows"], found["test_rows"]) == (60, 30)
    assert found["settings"]["steps"] == 3
    assert found["refused"] in told.err.replace("\n", " ")


def test_layers_of_text_towers_and_pooled_tokens_are_predicted_too(here: Path):
    for more in (("--tower", "text"), ("--tokens", "pooled", "--all-measures")):
        assert command("layers", *NAMES, "--data", "pictures.tar", "--output", more[1], *more, *QUICK) == 4
    text, pooled = (strict(here / name / "contrasim_layers.json") for name in ("text", "pooled"))
    assert text["train_rows"] + text["test_rows"] == PICTURES - 1  # a caption that two pictures share is taken once
    assert pooled["layers"] == ["block 1 pooled", "block 2 pooled"]
    assert {row["measure"] for row in pooled["closed_form"]} >= {"RSA", "PWCCA", "dot"}


def test_a_verdict_ends_with_code_0(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from mmclip_launch.contrasim import layers

    def of_one_origin(models, names, *_, **options):
        generator = torch.Generator().manual_seed(0)
        made = []
        for _ in models:
            rows = [torch.randn(90, 8, generator=generator) + 4 * torch.eye(8)[depth] for depth in range(4)]
            made.append(
                LayerFeatures("image", tuple(f"block {n} mean" for n in range(4)), tuple(rows), torch.arange(90))
            )
        quick = ContraSimConfig(hidden=(16,), out=8, steps=80, lr=1e-2)
        return contrasim_of(made, names, quick, held_out=options["held_out"])

    monkeypatch.setattr(layers, "contrasim_of", of_one_origin)
    assert command("layers", *NAMES, "--data", "pictures.tar", "--held-out", "a", "b", *QUICK) == 0
    assert "true layers are found" in " ".join(capsys.readouterr().err.split())


def test_captions_of_a_random_model_get_no_verdict(here: Path, capsys: pytest.CaptureFixture[str]):
    words = ("captions", "a", "b", "--data", "pictures.tar", "--set-size", "20", "--text-layer", "block 2 mean")
    assert command(*words, "--output", "out", *QUICK) == 2
    assert "30 pairs are held out: expected at least two sets of 20" in capsys.readouterr().err
    more = ("captions", "a", "b", "--data", "pictures.tar", "--text-layer", "block 2 mean", "--test-share", ".5")
    assert command(*more, "--set-size", "20", "--output", "out", *QUICK) == 4
    found = strict(here / "out" / "contrasim_captions.json")
    assert (found["left"], found["right"]) == ("a, embedding", "b, block 2 mean")
    assert found["train_pairs"] + found["test_pairs"] == PICTURES - 1
    assert found["chance"] == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("layers a b c d --data pictures.tar", "4 models, 2 to train on and 2 held out: expected at least 3 and 2"),
        (
            "layers a b c d e --data pictures.tar --held-out z",
            "--held-out z: expected some of the models: a, b, c, d, e",
        ),
        ("layers a b c d e", "the following arguments are required: --data"),
        (
            "captions a --data pictures.tar --image-layer x",
            "--image-layer 'x': the image tower of a has block 1 pooled",
        ),
        ("captions a --data pictures.tar --set-size 5", "--set-size: expected a whole number from 20 on, got '5'"),
        ("digits --seeds 4", "--seeds: expected a whole number from 5 on, got '4'"),
        ("digits --contrasim-steps 0", "--contrasim-steps: expected a whole number from 1 on, got '0'"),
        ("pairs", "contrasim 'pairs': expected: mmclip contrasim layers|captions|digits"),
    ],
)
def test_mistakes_are_told_in_one_message(here: Path, capsys: pytest.CaptureFixture[str], words: str, says: str):
    given = words.split()
    assert command(*given, *(QUICK if "--data" in given else ())) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]):
    assert command("--help") == 0
    assert "Exit codes: 0 a verdict is given; 4 none is" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command("layers", "--help")
    assert "Exit codes: 0 a verdict is given; 4 none is" in " ".join(capsys.readouterr().out.split())
