"""`mmclip eval` over checkpoints, suites and tasks: what each flag does, and that nothing is lost by what fails."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_launch import evaluate
from mmclip_launch.cli import run_verb
from mmclip_launch.run.scoring import evaluating
from mmclip_launch.run.scoring.encoding import EncodeOptions, load_everywhere

MODEL_CFG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
SUITE = """
[[datasets]]
name = "colours"
path = "colours"

[[datasets]]
name = "both"
path = "colours/test"
templates = "none"
tasks = ["zero_shot_classification", { type = "zero_shot_retrieval", recall_at = [2] }]

[[datasets]]
name = "captions"
path = "colours/test"
tasks = ["zero_shot_retrieval"]
"""


def write_set(folder: Path, cut: bool = False) -> None:
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as archive:
        for number, (name, colour) in enumerate(COLOURS.items()):
            buffer = io.BytesIO()
            Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
            picture = buffer.getvalue()[: 40 if cut and number == 1 else None]
            for extension, data in {"cls": name.encode(), "png": picture, "txt": f"a {name} thing".encode()}.items():
                member = tarfile.TarInfo(f"s{number}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(COLOURS))
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing")


def write_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = TwoTower(MODEL_CFG)
    if seed < 0:
        torch.nn.init.constant_(model.backbone.visual.proj, float("nan"))
    folder.mkdir()
    save_weights(model, folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for name, seed in {"first": 0, "second": 1, "nan": -1}.items():
        write_model(place / name, seed)
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a suite, its sets, and one more whose second picture is cut."""
    write_set(tmp_path / "colours")
    write_set(tmp_path / "cut", cut=True)
    (tmp_path / "suite.toml").write_text(SUITE)
    for model in models.iterdir():
        (tmp_path / model.name).mkdir()
        for file in model.iterdir():
            (tmp_path / model.name / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(*arguments: str) -> int:
    return run_verb(evaluate.main, [*arguments, "--no-report"])


def results(folder: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.rglob("*.json")]
    return {(result["dataset"], result["task"]): result for result in found if "metrics" in result}


def test_several_checkpoints_are_measured_on_all_sets_of_a_suite_each_into_its_own_folder(place: Path):
    assert evaluated("first", "second", "--suite", "suite.toml") == 0
    for name in ("first", "second"):
        found = results(place / name / "results")
        assert {key[0] for key in found} == {"colours", "both", "captions"}
        assert len(found) == 4
        assert {result["checkpoint"]["path"] for result in found.values()} == {name}
    first, second = (results(place / name / "results") for name in ("first", "second"))
    assert {key: result["metrics"] for key, result in first.items()} != {
        key: result["metrics"] for key, result in second.items()
    }


def test_a_task_picks_among_those_of_the_suite_with_their_options_and_says_what_is_left_out(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluated("first", "--suite", "suite.toml", "--task", "zero_shot_retrieval", "--output", "out") == 0
    found = list(results(place / "out").values())
    assert sorted(result["dataset"] for result in found) == ["both", "captions"]
    (both,) = (result for result in found if result["dataset"] == "both")
    assert both["options"]["recall_at"] == [2]
    assert "left out, for want of --task zero_shot_retrieval: colours" in capsys.readouterr().err
    assert evaluated("first", "--dataset", "colours", "--task", "zero_shot_retrieval", "--output", "own") == 0
    (own,) = results(place / "own").values()
    assert own["num_captions"] == 3  # in place of what the folder says of itself


def test_tasks_that_do_not_exist_or_that_no_set_has_are_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluated("first", "--suite", "suite.toml", "--task", "zero_shot_retrival", "--output", "out") == 2
    assert "did you mean 'zero_shot_retrieval'?" in capsys.readouterr().err
    (place / "suite.toml").write_text(SUITE[: SUITE.index('name = "both"') - 14])
    assert evaluated("first", "--suite", "suite.toml", "--task", "zero_shot_retrieval", "--output", "out") == 2
    assert "--task zero_shot_retrieval: none of the sets has it: colours" in capsys.readouterr().err
    assert not (place / "out").exists()


SUITES = {
    "missing": ("nowhere.toml", None, "nowhere.toml: no such file; nearest in .: suite.toml"),
    "empty": ("empty.toml", "datasets = []", "empty.toml: no sets: expected a [[datasets]] table"),
    "typo": (
        "typo.toml",
        '[[datasets]]\nname = "x"\npath = "colours"\ntemplate = "none"',
        "typo.toml: datasets.0.template: unknown key; did you mean 'templates'?",
    ),
    "twice": ("suite.toml", SUITE + SUITE, "2 data sets are named 'colours'"),
}


@pytest.mark.parametrize(("name", "text", "message"), SUITES.values(), ids=SUITES.keys())
def test_a_wrong_suite_is_one_message(
    name: str, text: str | None, message: str, place: Path, capsys: pytest.CaptureFixture[str]
):
    if text is not None:
        (place / name).write_text(text)
    assert evaluated("first", "--suite", name, "--output", "out") == 2
    assert message in capsys.readouterr().err


def test_classes_that_differ_in_case_alone_are_told_for_what_they_are(place: Path, capsys: pytest.CaptureFixture[str]):
    names = place / "colours/classnames.txt"
    names.write_text("red\nRed\nblue")
    with_indices = ["first", "--dataset", "colours", "--label", "cls", "--output", "out"]
    write_indices(place / "colours/test/0.tar")
    assert evaluated(*with_indices) == 0
    assert (
        "one to the model, for their texts give the same tokens: 1, such as 'red' and 'Red'" in capsys.readouterr().err
    )
    (result,) = results(place / "out").values()
    assert any("'red' and 'Red'" in note for note in result["notes"])
    names.write_text("red\nRed\nRED")
    assert evaluated(*with_indices) == 2
    assert "'a red thing' and 'a Red thing' differ in case alone" in capsys.readouterr().err


def write_indices(tar: Path) -> None:
    """Numbers in place of the names of classes, in shards that `write_set` made."""
    with tarfile.open(tar) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # pyright: ignore[reportOptionalMemberAccess]
    with tarfile.open(tar, "w") as archive:
        for name, data in members:
            kept = name[1:2].encode() if name.endswith(".cls") else data
            member = tarfile.TarInfo(name)
            member.size = len(kept)
            archive.addfile(member, io.BytesIO(kept))


def test_a_path_may_hold_an_equals_sign(place: Path):
    (place / "year=2020").mkdir()
    (place / "colours").rename(place / "year=2020/colours")
    assert evaluated("first", "--dataset", "year=2020/colours", "--output", "out") == 0
    assert evaluated("first", "--dataset", "again=year=2020/colours", "--output", "out") == 0
    assert {name for name, _ in results(place / "out")} == {"colours", "again"}


def test_a_wrong_set_is_told_once_and_not_for_each_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluated("first", "second", "--dataset", "colours", "--dataset", "gone", "--output", "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("mmclip: evaluation data set 'gone'")
    assert "failed" not in said
    assert not (place / "out").exists()


def test_what_fails_costs_the_others_nothing_and_is_named_at_the_end(place: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("nan", "nowhere", "first", "--dataset", "cut", "--dataset", "colours", "--output", "out")
    assert evaluated(*arguments) == 2
    (result,) = results(place / "out").values()
    assert (result["dataset"], result["checkpoint"]["path"]) == ("colours", "first")
    ending = capsys.readouterr().err.partition("mmclip: ")[2].splitlines()
    assert ending[0] == "4 evaluations failed; the results of all others are written:"
    assert ending[1].startswith("nan, cut: sample cut/0.tar/s0: its embedding is not finite")
    assert ending[2].startswith("nan, colours: sample colours/0.tar/s0: its embedding is not finite")
    assert ending[3].startswith("nowhere: nowhere is no folder")
    assert ending[4].startswith("first, cut: sample cut/0.tar/s1 cannot be decoded")


def test_a_fault_of_ours_in_one_set_is_code_1_and_the_rest_is_written(place: Path, monkeypatch: pytest.MonkeyPatch):
    one = evaluating.evaluate_opened

    def failing(encoder: Any, opened: Any, *rest: Any, **options: Any) -> Any:
        if opened[0].dataset.config.name == "both":
            raise TypeError("a bug")
        return one(encoder, opened, *rest, **options)

    monkeypatch.setattr(evaluating, "evaluate_opened", failing)
    assert evaluated("first", "--suite", "suite.toml", "--output", "out") == 1
    assert {key[0] for key in results(place / "out")} == {"colours", "captions"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_precision_is_that_of_the_towers_and_stands_in_the_result(precision: str, place: Path):
    arguments = ("first", "--dataset", "colours", "--output", "out", "--precision", precision, "--cache", "kept")
    assert evaluated(*arguments) == 0
    (result,) = results(place / "out").values()
    assert result["precision"] == precision
    keys = [json.loads(path.read_text()) for path in (place / "kept").glob("*/key.json")]
    assert {key["precision"] for key in keys} == {precision}
    model, encoder = load_everywhere("first", False, EncodeOptions(precision=precision))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    exact = torch.equal(encoder.towers.embed_images(pixels), model.embed_uint8(pixels))
    assert exact == (precision == "fp32")


def test_the_cache_is_said_and_used_and_can_be_switched_off(place: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("first", "--suite", "suite.toml", "--output", "out")
    assert evaluated(*arguments, "--cache", "kept") == 0
    said = capsys.readouterr().err
    # Three sets of the same pictures are one pass; captions and prompts of the folder are the same three texts.
    assert "features: 3 pictures and 6 texts encoded; kept in kept, 0." in said
    assert evaluated(*arguments, "--cache", "kept") == 0
    assert "features: 3 pictures and 6 texts reused; kept in kept" in capsys.readouterr().err
    assert evaluated(*arguments, "--no-cache") == 0
    assert "features: 3 pictures and 6 texts encoded\n" in capsys.readouterr().err
    assert evaluated(*arguments, "--cache", "none", "--cache-gib", "0") == 0
    said = capsys.readouterr().err
    assert said.count("warning: features are not kept in none: ") == 1
    assert "encoded" in said
    assert evaluated(*arguments, "--cache", "kept", "--no-cache") == 2
    assert "--cache kept and --no-cache: expected one of the two" in capsys.readouterr().err


def test_the_seed_reaches_the_tasks(place: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []
    one = evaluating.evaluate_opened

    def noted(*arguments: Any, seed: int, **options: Any) -> Any:
        seeds.append(seed)
        return one(*arguments, seed=seed, **options)

    monkeypatch.setattr(evaluating, "evaluate_opened", noted)
    assert evaluated("first", "--dataset", "colours", "--output", "out", "--seed", "7") == 0
    assert seeds == [7]


WRONG_FLAGS = {
    "precision": (("--precision", "fp8"), "precision: invalid choice: 'fp8'"),
    "batch size": (("--batch-size", "0"), "batch-size: expected a whole number from 1 on, got '0'"),
    "workers": (("--workers", "two"), "workers: expected a whole number from 1 on, got 'two'"),
    "seed": (("--seed", "-1"), "seed: expected"),
}


@pytest.mark.parametrize(("flags", "message"), WRONG_FLAGS.values(), ids=WRONG_FLAGS.keys())
def test_a_wrong_flag_is_one_message(
    flags: tuple[str, ...], message: str, place: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluated("first", "--dataset", "colours", *flags) == 2
    assert message in capsys.readouterr().err


def test_every_checkpoint_has_its_page(place: Path):
    assert run_verb(evaluate.main, ["first", "second", "--dataset", "colours"]) == 0
    assert all((place / name / "report" / "index.html").is_file() for name in ("first", "second"))


def test_help_says_it_all(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    said = capsys.readouterr().out
    flags = "--suite --dataset --task --split --label --templates --group --precision --device --seed --batch-size"
    for flag in (*flags.split(), "--workers", "--cache", "--no-cache", "--cache-gib", "--output", "--raw", "torchrun"):
        assert flag in said, flag
