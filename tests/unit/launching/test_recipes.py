"""The recipes that come with mmclip: each loads, and each runs to its end from tiny weights on data that is shipped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmclip import load
from mmclip.errors import UserError
from mmclip.release import interpolate
from mmclip_launch import evaluate, finetune
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.recipe.recipe_checks import refuse_lost_runs, warn_of_warmup
from mmclip_launch.train import train

START = """
output = "start"
global_batch_size = 16
precision = "fp32"
device = "cpu"
length = { steps = 2 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
evaluation = { report = false }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
CLASSES = ("--data.labels.place", "json:category", "--data.labels.templates", "simple")
QUICK = (
    *("--data", "embedded:emoji/unseen-concept-noto.tar", "--global_batch_size", "16", "--precision", "fp32"),
    *("--device", "cpu", "--data.workers", "0", "--evaluation.report", "False"),
)
RECIPES = {
    "contrastive": (),
    "flyp": CLASSES,
    "linear_probe": CLASSES,
    "lp_ft": CLASSES,
    "locked_text": (),
    "lora": (),
    "few_shot": (*CLASSES, "--data.labels.shots", "2"),
    "robust": ("--interpolation.alphas", "0.5"),
    "distill": (),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that two steps have made."""
    place = tmp_path_factory.mktemp("start")
    (place / "run.toml").write_text(START)
    return train(load_run_config(place / "run.toml", ["--output", str(place / "start")]))


def tune(recipe: str, start: Path, output: Path, *flags: str) -> Path:
    length = () if recipe == "linear_probe" else ("--length.epochs", "None", "--length.steps", "2")
    length += ("--objective.teacher", str(start)) if recipe == "distill" else ()
    words = [recipe, "--init", str(start), "--output", str(output), *QUICK, *RECIPES[recipe], *length, *flags]
    finetune.main(words)
    return output


def changed(before: Path, after: Path) -> set[str]:
    old, new = (load(path).backbone.state_dict() for path in (before, after))
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_no_recipe_is_a_mistake_that_shows_the_recipes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        finetune.main([])
    assert stop.value.code == 2
    assert "\n  flyp " in capsys.readouterr().out


def test_all_packaged_recipes_load_and_name_what_must_stay(start: Path):
    assert set(RECIPES) <= set(finetune.recipe_names())
    for name in finetune.recipe_names():
        config = finetune.recipe(name, ["--init", str(start), "--data", "embedded:emoji/unseen-style-fluent.tar"])
        assert config.retained.datasets, name
        assert not refuse_lost_runs(config), name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_runs_to_its_end(recipe: str, start: Path, tmp_path: Path):
    run = tune(recipe, start, tmp_path / "run")
    found = json.loads((run / "forgetting.json").read_text())
    assert [one["name"] for one in found["figures"]] == ["kept-noto/acc1", "kept-twemoji/acc1"]
    parts = {
        "visual" if name.startswith("visual.") else "text" for name in changed(start, run / "checkpoints" / newest(run))
    }
    parts -= {"text"} if recipe == "lp_ft" and parts == {"visual", "text"} else set()
    wanted = {"linear_probe": set(), "lp_ft": {"visual"}}
    assert parts == wanted.get(recipe, {"visual", "text"})  # of a locked text tower the scale still learns
    if recipe == "robust":
        curve = json.loads((run / "interpolation/interpolation.json").read_text())
        assert [one["alpha"] for one in curve["points"]] == [0, 0.5, 1]
        best = curve["best"]["alpha"]
        chosen = load(run).backbone.state_dict()
        ends = [load(path).backbone.state_dict() for path in (start, curve["b"])]
        wanted = interpolate(*ends, best)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in chosen.items())
    if recipe == "linear_probe":
        assert found["mean"]["drop"] == 0


def newest(run: Path) -> str:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))[-1]


@pytest.mark.slow
def test_the_head_of_a_probe_is_saved_and_measured_and_a_later_run_starts_from_it(start: Path, tmp_path: Path):
    run = tune("linear_probe", start, tmp_path / "probe")
    head = load(run).class_head
    assert head is not None
    assert len(head.names) > 3
    results = [json.loads(path.read_text()) for path in (run / "results").glob("dev*.json")]
    (probed,) = [one["metrics"]["head_acc1"] for one in results if one["task"] == "classifier"]
    (zero_shot,) = [one["metrics"]["acc1"] for one in results if one["task"] == "zeroshot_classification"]
    assert probed > 0.3 > zero_shot  # the most frequent of the categories alone has a fifth
    evaluate.main([str(run), "--output", str(tmp_path / "again"), "--no-report", "--task", "classifier"])
    (again,) = [json.loads(path.read_text()) for path in (tmp_path / "again").glob("*.json")]
    assert again["metrics"]["head_acc1"] == probed
    later = tune("lp_ft", run, tmp_path / "later", "--head.start", "source")
    first = json.loads((later / "metrics.jsonl").read_text().splitlines()[0])
    assert first["dev/head_acc1"] == probed
    with pytest.raises(UserError, match="needs weights with a class head"):
        evaluate.main(
            [str(start), "--dataset", "embedded:emoji/unseen-concept-noto.tar", "--label", "json:category"]
            + ["--output", str(tmp_path / "none"), "--no-report", "--task", "classifier"]
        )


def test_what_loses_runs_is_refused_or_named(start: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no weights to start from: expected --init SOURCE"):
        finetune.recipe("contrastive", ["--data", "x.tar"])
    with pytest.raises(UserError, match="nothing to learn from: expected --data SHARDS"):
        finetune.recipe("contrastive", ["--init", str(start)])
    with pytest.raises(UserError, match=r"no recipe 'contrstive': did you mean 'contrastive'. expected .* contrastive"):
        finetune.recipe("contrstive", [])
    given = ["--init", str(start), "--data", "embedded:emoji/unseen-style-fluent.tar"]
    with pytest.raises(UserError, match="a pretrained tower is learnt anew"):
        refuse_lost_runs(finetune.recipe("contrastive", [*given, "--optimizer.lr", "1e-3"]))
    adapted = [*given, "--optimizer.lr", "1e-3", "--towers.lora.rank", "4"]
    assert not refuse_lost_runs(finetune.recipe("contrastive", adapted))
    (line,) = refuse_lost_runs(finetune.recipe("contrastive", [*given, "--optimizer.lr", "5e-4"]))
    assert "optimizer.lr=0.0005 is large" in line
    config = finetune.recipe("contrastive", [*given, "--schedule.warmup_samples", "1280"])
    (line,) = warn_of_warmup(config, total_steps=50)
    assert "schedule.warmup_samples=1,280 is 20% of the 6,400 samples" in line
    assert not warn_of_warmup(config, total_steps=100)
    with pytest.raises(UserError, match=r"must be less than the 640 samples of the run"):
        warn_of_warmup(config, total_steps=5)
    (tmp_path / "own.toml").write_text(START[: START.index("[model.inline]")])
    with pytest.raises(UserError, match=r"\[retained\] names nothing that should stay"):
        refuse_lost_runs(finetune.recipe(str(tmp_path / "own.toml"), ["--init", str(start)]))


@pytest.mark.slow
def test_two_processes_fit_one_head_and_learn_as_one_process(
    start: Path, tmp_path: Path, on_two_ranks: Callable[..., str]
):
    one = tune("lp_ft", start, tmp_path / "one")
    words = ["lp_ft", "--init", str(start), "--output", str(tmp_path / "two"), *QUICK, *CLASSES]
    on_two_ranks("finetune", *words, "--length.epochs", "None", "--length.steps", "2")
    lines = [json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) for run in (one, tmp_path / "two")]
    assert lines[0]["dev/head_acc1"] == lines[1]["dev/head_acc1"]
    heads = [load(run / "checkpoints" / newest(run)).class_head for run in (one, tmp_path / "two")]
    assert heads[0] is not None
    assert heads[1] is not None
    assert torch.allclose(heads[0].weight, heads[1].weight, atol=1e-5)
    assert torch.allclose(heads[0].bias, heads[1].bias, atol=1e-5)
