"""The page at the end of `train` and `eval`, and `mmclip report` at any time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.shards import ShardWriter, expand_shards, open_index
from mmclip_data.shards.read import ShardReader
from mmclip_launch import evaluate, report
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.scoring import drawing
from mmclip_launch.run.scoring.encoding import EncodeOptions
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 16
device = "cpu"
length = {{ steps = 3 }}
log_every_steps = 1
[data]
source = {{ type = "synthetic", samples = 64, image_size = 32 }}
workers = 0
[model]
arch = "nano-vit-32"
"""
DATASET = """
[[evaluation.datasets]]
name = "held-out"
path = "{folder}/held-out"
label = "json:name"
group = "json:category"
templates = "none"
"""


def make_shards(folder: Path, count: int) -> None:
    """The first few embedded pictures of a style."""
    (tar,) = expand_shards("embedded:emoji/unseen-concept-noto.tar")
    with ShardReader(tar, open_index(tar)) as reader, ShardWriter(folder, "part-{:d}.tar", 1000) as writer:
        for row in range(count):
            writer.add(reader.index.key(row), reader.read(row))


def run_in(folder: Path, *flags: str, datasets: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    text = RUN + (DATASET if datasets else "")
    (folder / "run.toml").write_text(text.format(folder=folder))
    return train(load_run_config(folder / "run.toml", flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its held-out pictures."""
    folder = tmp_path_factory.mktemp("finished")
    make_shards(folder / "held-out", 40)
    run_in(folder)
    return folder


def page_of(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


def test_a_run_ends_with_a_page_about_itself(finished: Path):
    text = page_of(finished / "run")
    (result,) = (finished / "run" / "results").glob("*.json")
    accuracy = json.loads(result.read_text())["metrics"]["acc1"]
    for words in ("nano-vit-32", "held-out", f"{accuracy:.4f}", "Loss", "48 samples", "What the model says"):
        assert words in text, words
    last = json.loads((finished / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["held-out/acc1"] == accuracy  # written before the page, which draws it
    assert "Scores over the run" in text
    assert not list((finished / "run" / "report").glob(".*"))


def test_a_run_without_sets_has_a_page_of_curves(tmp_path: Path):
    text = page_of(run_in(tmp_path, datasets=False))
    assert "Loss" in text
    assert ">Scores<" not in text


def test_the_page_can_be_switched_off(tmp_path: Path):
    run = run_in(tmp_path, "--evaluation.report", "False", datasets=False)
    assert not (run / "report").exists()


def test_a_drawing_that_fails_loses_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> int:
        raise RuntimeError("no ink")

    monkeypatch.setattr(drawing, "write_page", fail)
    make_shards(tmp_path / "held-out", 12)
    run = run_in(tmp_path)
    assert len(list((run / "results").glob("*.json"))) == 1
    assert len(list((run / "checkpoints").glob("step-*"))) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "could not be drawn (RuntimeError: no ink)" in told
    assert f"mmclip report {run}" in told
    with pytest.raises(RuntimeError, match="no ink"):  # the verb itself hides nothing
        report.main([str(run)])


def test_report_draws_again_and_says_where(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    before = page_of(run)
    (run / "report" / "index.html").unlink()
    shutil.rmtree(run / "results")
    report.main([str(run)])
    told = capsys.readouterr().err
    assert f"report: {run / 'report' / 'index.html'} (" in told
    text = page_of(run)
    start, end = 'id="set-1"', 'id="about"'
    assert text[text.index(start) : text.index(end)] == before[before.index(start) : before.index(end)]
    assert not (run / "results").exists()  # a report looks; it writes no result


def test_a_set_that_moved_away_is_a_line_on_the_page(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    config = run / "config.toml"
    config.write_text(config.read_text().replace("/held-out", "/moved-away"))
    report.main([str(run)])
    text = page_of(run)
    assert "The data set held-out is left out:" in text
    assert ">Scores<" in text  # from the files of results
    assert "What the model says" not in text
    with pytest.raises(UserError, match="moved-away"):  # asked for by name, it is an error
        report.main([str(run), "--dataset", f"x={tmp_path / 'moved-away'}", "--templates", "none"])


def test_a_run_that_was_stopped_before_its_first_checkpoint_has_its_curves(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    shutil.rmtree(run / "checkpoints")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sam')
    report.main([str(run)])
    assert "holds neither open_clip_config.json nor a whole checkpoint" in page_of(run)
    assert "Loss" in page_of(run)


def test_eval_puts_its_page_beside_its_results(finished: Path, tmp_path: Path):
    (checkpoint,) = (finished / "run" / "checkpoints").glob("*3")
    weights = tmp_path / "weights"
    shutil.copytree(checkpoint, weights)  # an open_clip folder, without a run around it
    flags = ["--dataset", f"mine={finished / 'held-out'}", "--label", "json:name", "--templates", "none"]
    evaluate.main([f"local-dir:{weights}", *flags, "--output", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").glob("mine_*.json"))) == 1
    text = page_of(tmp_path / "out")
    assert "Evaluation of weights" in text
    assert 'id="training"' not in text
    evaluate.main([f"local-dir:{weights}", *flags, "--output", str(tmp_path / "bare"), "--no-report"])
    assert not (tmp_path / "bare" / "report").exists()


def test_results_of_several_checkpoints_make_one_page(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (result,) = (finished / "run" / "results").glob("*.json")
    content = json.loads(result.read_text())
    content["checkpoint"]["weights_sha256"] = "00"
    content["pretrained"] = "elsewhere/other/checkpoints/step-7"
    (tmp_path / "other.json").write_text(json.dumps(content))
    report.main(["--results", str(finished / "run" / "results"), str(tmp_path), "--output", str(tmp_path / "out")])
    page = tmp_path / "out" / "report" / "comparison.html"
    assert f"report over all checkpoints: {page} (" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    for words in ("2 checkpoints, 1 set", "other/step-7", "run/step-00000003", f"{content['metrics']['acc1']:.4f}"):
        assert words in text, words


def test_several_passes_have_a_page_each_and_one_over_them_all(finished: Path, tmp_path: Path):
    screen = Screen()
    (folder,) = (finished / "run" / "checkpoints").glob("*3")
    given = load_run_config(finished / "run" / "config.toml").evaluation.datasets
    first = report.look(str(folder), None, given, EncodeOptions("cpu"), tmp_path, screen)
    identity = replace(first.results[0].identity, weights_sha256="00", checkpoint="b")
    second = replace(first, results=[replace(result, identity=identity) for result in first.results])
    drawing.draw_all_or_warn([first, second], tmp_path, screen)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", "index-1.html", "comparison.html"}
    assert "2 checkpoints, 1 set" in (tmp_path / "report" / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [[], ["run", "--results", "x"], ["--results", "x", "--dataset", "y"]])
def test_a_run_or_results_are_drawn_and_never_both(flags: list[str]):
    with pytest.raises(UserError, match="give one of them"):
        report.main(flags)


def test_report_of_nothing_is_one_message(tmp_path: Path):
    with pytest.raises(UserError, match="is no folder"):
        report.main([str(tmp_path / "nothing")])
