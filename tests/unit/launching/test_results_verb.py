"""`mmclip results` on files of several programs."""

import csv
import json
from pathlib import Path

import pytest

from mmclip_launch import results
from mmclip_launch.cli import run_verb

METRICS = {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": 0.5}


def write(path: Path, dataset: str, pretrained: str, acc1: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "dataset": dataset,
        "model": "ViT-B-32",
        "pretrained": pretrained,
        "task": "zeroshot_classification",
        "metrics": METRICS | {"acc1": acc1},
        "language": "en",
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results" / "a.json", "vtab/cifar10", "openai", 0.25)
    write(tmp_path / "results" / "b.json", "vtab/eurosat", "openai", 0.5)
    write(tmp_path / "results" / "c.json", "vtab/cifar10", "laion", 0.125)
    write(tmp_path / "results" / "d.json", "vtab/eurosat", "laion", 0.375)
    return tmp_path


def verb(words: str) -> int:
    return run_verb(results.main, words.split())


def test_the_table_shows_every_checkpoint_and_the_mean_with_what_it_is_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert verb("results") == 0
    shown = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in shown.splitlines() if "acc1" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["acc1", "0.2500", "0.1250", ""],
        ["acc1", "0.5000", "0.3750", ""],
        ["acc1", "0.3750", "0.2500", ""],
    ]
    assert "mean over 2 sets: vtab/cifar10, vtab/eurosat" in shown


def test_files_are_written_where_they_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert verb("results --csv out/all.csv --markdown all.md --html all.html --group vtab=vtab*") == 0
    with (folder / "out" / "all.csv").open() as file:
        assert [row["acc1"] for row in csv.DictReader(file)] == ["0.125", "0.25", "0.375", "0.5"]
    assert "group vtab, zero-shot classification" in (folder / "all.md").read_text()
    assert "group vtab, zero-shot classification" in (folder / "all.html").read_text()
    said = capsys.readouterr()
    assert said.out == ""
    assert "4 results of 2 checkpoints" in said.err


@pytest.mark.parametrize("words", ["results --group vtab", "nowhere", "results --group =x"])
def test_a_wrong_word_is_told(folder: Path, words: str, capsys: pytest.CaptureFixture[str]):
    assert verb(words) == 2
    assert "expected" in capsys.readouterr().err
