"""`mmclip compare` on models of digits: the same weights, a fine-tune, other seeds, and one that learnt wrong labels."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from mmclip_launch.cli import dispatch, run_verb

MODELS = runpy.run_path(str(Path(__file__).with_name("digit_models.py")))
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("digit models")]
CODES = {"safe": 0, "unsafe": 4, "look": 5}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("digits")
    shards, trained = MODELS["digit_shards"](folder), MODELS["trained"]
    old = trained(folder / "old", shards["train"])
    return {
        "test": shards["test"],
        "old": old,
        "tuned": trained(folder / "tuned", shards["train"], seed=5, steps=30, init=old),
        "seed 1": trained(folder / "seed-1", shards["train"], seed=1),
        "seed 2": trained(folder / "seed-2", shards["train"], seed=2),
        "permuted": trained(folder / "permuted", shards["permuted"], seed=3),
    }


@pytest.fixture
def compared(models: dict[str, Path], tmp_path: Path):
    def run(b: str, *flags: str) -> tuple[int, dict[str, Any]]:
        words = ["compare", str(models["old"]), str(models[b]), "--data", str(models["test"]), "--no-cache"]
        words += ["--class-names", str(names), "--templates", str(templates), "--output", str(tmp_path / "out"), *flags]
        code = run_verb(dispatch, words)
        return code, json.loads((tmp_path / "out" / "comparison.json").read_text())

    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("\n".join(MODELS["WORDS"]))
    templates.write_text("the number {c}\n")
    return run


def figure(found: dict[str, Any], name: str) -> dict[str, Any]:
    [one] = [one for one in found["figures"] if one["figure"] == name]
    return one


def test_the_same_weights_are_at_the_ceiling_and_safe(compared):
    code, found = compared("old")
    assert (code, found["verdict"]) == (0, "safe")
    for name in ("zero_shot.agreement", "representation.image.cka", "representation.image.neighbours"):
        one = figure(found, name)
        assert one["value"] == pytest.approx(one["ceiling"], abs=1e-9)
    assert figure(found, "representation.image.cka.position")["value"] == 1
    assert found["sets"][0]["flipped"] == []


def test_a_fine_tune_lies_between_the_ceiling_and_other_seeds(compared, models: dict[str, Path]):
    against = ["--against", str(models["seed 1"]), str(models["seed 2"])]
    code, tuned = compared("tuned", *against)
    assert code == CODES[tuned["verdict"]]
    assert tuned["verdict"] != "unsafe"
    _, seed = compared("seed 1", *against)
    near = figure(tuned, "representation.image.cka.position")["value"]
    far = figure(seed, "representation.image.cka.position")["value"]
    assert far < near < 1
    assert far < 0.3
    assert figure(seed, "representation.image.cka")["floor_from"] == "2 independent models"
    assert seed["verdict"] != "safe"
    assert any("10 rows are too few" in note for note in seed["notes"]), "ten captions tell nothing of a text tower"


def test_a_model_of_wrong_labels_is_unsafe(compared):
    code, found = compared("permuted")
    assert (code, found["verdict"]) == (4, "unsafe")
    assert figure(found, "zero_shot.accuracy.change")["value"] < -0.5
    lost = [one for one in found["sets"][0]["flipped"] if one["flip"] == "lost"]
    assert len(lost) > 200
    assert any("accuracy, B - A" in reason for reason in found["reasons"])
