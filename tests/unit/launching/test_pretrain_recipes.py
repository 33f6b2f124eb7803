"""The recipes for training from nothing: each runs by its name on data that is shipped, and says its price at the start."""

import json
import math
import re
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_launch.finetune import packaged_recipe
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.config_files import PRETRAIN, recipes, run_file
from mmclip_launch.run.cost import cost_of_run, told_of_cost
from mmclip_launch.train import main, train

WORDS = (
    "--data.source.shards embedded:emoji/unseen-concept-noto.tar --data.workers 0 --global_batch_size 16 --log_every_steps 1 "
    "--length.epochs None --length.steps 2 --precision fp32 --device cpu --model.arch nano-vit-32 --evaluation.report False"
)
QUICK = tuple(WORDS.split())
COST = {
    "byol": 2 + 2 / 3,
    "clip": 1,
    "clip-queue": 4 / 3,
    "dino": 2 + 4 * 0.25 + 2 / 3,  # small crops of 2 x 2 patches beside 4 x 4
    "flip": 0.5 * 0.95 + 0.05,
    "mae": 0.25,
    "moco": 1 + 1 / 3,
    "siglip": 1,
    "silc": 2 + 4 * 0.25 + 2 / 3,
    "simclr": 2,
    "simsiam": 2,
    "slip": 3,
    "swav": 2 + 4 * 0.25,
    "vicreg": 2,
}
OBJECTIVES = {
    "clip-queue": "queue",
    "flip": "clip",
    "mae": "masked",
    "silc": "siglip + dino",
    "slip": "clip + simclr",
}
"""What the first screen calls those whose name is not their objective's."""


@pytest.mark.parametrize("name", sorted(COST))
def test_a_recipe_runs_by_its_name_and_says_its_price(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([name, *QUICK, "--output", str(tmp_path / "run")])
    said = " ".join(capsys.readouterr().err.split())
    assert f"beside clip: {COST[name]:.2f} x a sample" in said
    assert f"objective {OBJECTIVES.get(name, name)}, fp32" in said
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert math.isfinite(last["train/loss"])


def test_there_is_a_recipe_for_each_of_the_issue_and_each_has_a_line_about_it():
    found = recipes(PRETRAIN)
    assert set(found) == set(COST)
    assert all(len(line) > 20 and not line.startswith("mmclip") for line in found.values())


def test_a_wrong_name_lists_the_recipes_and_a_path_stays_a_path(tmp_path: Path):
    with pytest.raises(UserError, match="no such recipe: expected .*clip-queue, dino"):
        run_file("imagenet")
    with pytest.raises(UserError, match="expected a run file.*clip-queue"):
        main([])
    assert run_file("some/run.toml") == Path("some/run.toml")
    assert run_file("slip").name == "slip.toml"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("slpi", "slip"),
        ("SLIP", "slip"),
        ("pretrain/simcl", "simclr"),
        ("mine", "mine.toml"),
        ("mine.tmol", "mine.toml"),
    ],
)
def test_a_misspelt_recipe_or_run_file_names_the_nearest(
    word: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^{re.escape(word)}: no such recipe: did you mean '{meant}'\? expected"):
        run_file(word)
    with pytest.raises(UserError, match=r"^no recipe 'contrastve': did you mean 'contrastive'\? expected"):
        packaged_recipe("contrastve")


def test_an_objective_that_comes_late_costs_for_its_share_of_the_run(tmp_path: Path):
    (tmp_path / "late.toml").write_text(
        run_file("slip").read_text().replace("weight = 1.0", "weight = 1.0\nstart = 0.8")
    )
    config = load_run_config(tmp_path / "late.toml", [*QUICK, "--output", str(tmp_path / "run")])
    run = assemble(config, build_accelerator(config))
    cost = cost_of_run(config, run.step.module.objective, run.step.module.towers, run.data.views)
    assert cost.total == pytest.approx(0.8 * 1 + 0.2 * 3)
    assert "1.40 x a sample" in told_of_cost(cost)


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_recipes_of_pictures_alone_take_shards_without_captions(objective: str, tmp_path: Path):
    with pytest.raises(UserError, match=rf"objective '{objective}'.*data\.image_only"):
        train(load_run_config(run_file("simclr"), ["--objective.type", objective, *QUICK]))
