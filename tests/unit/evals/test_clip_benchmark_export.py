"""Folders that CLIP_benchmark's own exporter wrote are evaluated as they are, with the figures that it has itself.

tests/golden/clip_benchmark_export.py says how the folders and its figures came about.
"""

import json
import runpy
from pathlib import Path

import pytest

import mmclip
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate

GOLDEN = Path(__file__).parents[2] / "golden"
EXPORT = GOLDEN / "clip_benchmark_export"
FIGURES = json.loads((EXPORT / "figures.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    runpy.run_path(str(GOLDEN / "clip_benchmark_export.py"))["write_model"](folder)
    return mmclip.load(str(folder))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("labelled", "zeroshot_classification"),
        ("multilabel", "zeroshot_classification"),
        ("captioned", "zeroshot_retrieval"),
    ],
)
def test_an_exported_folder_gives_the_peers_figures_without_a_word_about_it(model, name, task):
    settings = EvalDatasetConfig(name=name, path=str(EXPORT / name))
    (result,) = evaluate(model, [settings], ModelIdentity(model="formula", precision="fp32"))
    found = result.to_json()
    assert (found["task"], found["n_seen"], found["n_expected"]) == (task, 12, 12)
    assert {name: found["metrics"][name] for name in FIGURES[name]} == pytest.approx(FIGURES[name], abs=1e-6)
