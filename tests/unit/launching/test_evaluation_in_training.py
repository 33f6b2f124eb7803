"""A suite that is measured while a run trains: at step 0 too, under the same names and with the figures of `mmclip eval`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmclip.errors import UserError
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_launch import evaluate
from mmclip_launch.run.beginning.folder import refuse_changes
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.scoring.in_training import scores
from mmclip_launch.run.tables import to_toml
from mmclip_launch.train import train

RUN = """
output = "run"
global_batch_size = 12
precision = "fp32"
device = "cpu"
length = { steps = 4 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
checkpoint = { every_steps = 2 }
evaluation = { report = false, every_steps = 2, suite = "suite.toml", datasets = [
    { name = "inline", path = "embedded:emoji/unseen-concept-noto.tar", tasks = ["zero_shot_retrieval"] },
] }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
SUITE = """
[[datasets]]
name = "style"
path = "embedded:emoji/unseen-concept-twemoji.tar"
label = "json:name"
templates = "simple"
tasks = ["zero_shot_classification", "zero_shot_retrieval"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that has come to its end."""
    place = tmp_path_factory.mktemp("place")
    (place / "suite.toml").write_text(SUITE)
    (place / "run.toml").write_text(RUN)
    before = Path.cwd()
    os.chdir(place)
    try:
        train(load_run_config(Path("run.toml")))
    finally:
        os.chdir(before)
    return place


def logged(run: Path) -> dict[int, dict[str, float]]:
    """The scores of each step in metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {name: value for name, value in line.items() if name.startswith(("style/", "inline/"))}
        for line in lines
        if "style/acc1" in line
    }


def evaluated(checkpoint: Path, output: Path) -> dict[str, float]:
    """What `mmclip eval` writes of a checkpoint, under the names of the log."""
    evaluate.main([str(checkpoint), "--output", str(output), "--no-report", "--no-cache"])
    found = [json.loads(path.read_text()) for path in sorted(output.glob("*.json"))]
    return {f"{one['dataset']}/{name}": value for one in found for name, value in one["metrics"].items()}


def test_figures_at_every_step_are_those_of_the_command_on_its_checkpoint(place: Path, tmp_path: Path):
    found = logged(place / "run")
    assert sorted(found) == [0, 2, 4]
    assert {tuple(sorted(names)) for names in found.values()} == {tuple(sorted(found[0]))}
    assert {"style/acc1", "style/image_retrieval_recall@5", "inline/text_retrieval_recall@10"} <= set(found[0])
    for step in (2, 4):
        assert evaluated(place / f"run/checkpoints/step-{step:08d}", tmp_path / str(step)) == found[step]
    assert found[0] != found[2] != found[4]


@pytest.mark.slow
def test_two_processes_log_what_the_command_says_and_at_step_0_what_one_does(
    place: Path, tmp_path: Path, on_two_ranks: Callable[..., str]
):
    on_two_ranks("train", "run.toml", "--output", str(tmp_path / "two"), cwd=place)
    found = logged(tmp_path / "two")
    assert sorted(found) == [0, 2, 4]
    assert found[0] == logged(place / "run")[0]
    for step in (2, 4):
        checkpoint = tmp_path / "two" / f"checkpoints/step-{step:08d}"
        assert evaluated(checkpoint, tmp_path / str(step)) == found[step]


def test_the_run_folder_holds_the_sets_of_the_suite_and_not_its_name(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    config = load_run_config(Path("run.toml"))
    written = load_run_config(Path("run/config.toml"))
    assert [one.name for one in written.evaluation.datasets] == ["inline", "style"]
    assert written == config
    assert "suite" not in to_toml(written)
    refuse_changes(config, Path("run"))  # a resume is not refused for it
    assert load_run_config(Path("run.toml"), ["--evaluation.report", "True"]).evaluation.datasets[1].name == "style"


def test_a_run_is_refused_before_it_begins_for_what_is_wrong_with_its_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(RUN)
    with pytest.raises(UserError, match=r"suite\.toml: no such file"):
        load_run_config(Path("run.toml"))
    (tmp_path / "suite.toml").write_text(SUITE.replace("style", "inline"))
    with pytest.raises(UserError, match="2 data sets are named 'inline'"):
        train(load_run_config(Path("run.toml")))
    assert not (tmp_path / "run").exists()


def test_two_tasks_that_call_a_figure_alike_do_not_overwrite_each_other():
    def result(task: str, value: float) -> EvalResult:
        identity: dict[str, Any] = {"identity": ModelIdentity("m", "fp32"), "preprocess": {}, "device": "cpu"}
        metrics = {"acc1": Estimate(value, (0.0, 1.0), chance=0.1)}
        return EvalResult("set", task, metrics, num_samples=1, dataset_fingerprint="f", chunk_size=64, **identity)

    figures = scores([result("zero_shot_classification", 0.5), result("linear_probe", 0.75)])
    assert figures == {"set/acc1": 0.5, "set/linear_probe/acc1": 0.75}
