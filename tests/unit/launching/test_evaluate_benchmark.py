"""The benchmark `evaluate` compares every figure of the peer, and no pair of sides passes that differs."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def evaluate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield import_module("evaluate")
    finally:
        sys.path.remove(str(BENCHMARKS))


def figures(evaluate: ModuleType, **changed: float) -> dict[str, dict[str, float]]:
    found = {name: {"acc1": 0.5, "acc5": 0.75} for name in evaluate.PROMPTS}
    return {**found, "retrieval": {"text_retrieval_recall@1": 0.25, **changed}}


def test_ours_may_say_more_but_what_the_peer_says_must_be_equal(evaluate):
    peer = figures(evaluate)
    assert evaluate.largest_difference(figures(evaluate, more=1.0), peer) == 0
    close = figures(evaluate, **{"text_retrieval_recall@1": 0.25 + 5e-5})
    assert evaluate.largest_difference(close, peer) == pytest.approx(5e-5)
    for wrong in (0.2502, float("nan")):
        with pytest.raises(RuntimeError, match=r"retrieval, text_retrieval_recall@1: .* is not 0\.25"):
            evaluate.largest_difference(figures(evaluate, **{"text_retrieval_recall@1": wrong}), peer)
    del peer["retrieval"]
    with pytest.raises(RuntimeError, match="the peer wrote"):
        evaluate.largest_difference(figures(evaluate), peer)


def test_results_of_both_sides_are_found_by_their_prompts(evaluate, tmp_path):
    metrics = {"acc1": 0.5}
    for side, name, dataset in (("ours", "some_hash", "labelled_simple"), ("peer", "simple", "wds/labelled")):
        (tmp_path / side).mkdir()
        content = {"dataset": dataset, "task": "zeroshot_classification", "metrics": metrics}
        (tmp_path / side / f"{name}.json").write_text(json.dumps(content))
    assert evaluate.figures_of(tmp_path / "ours", by_prompts=True) == {"simple": metrics}
    assert evaluate.figures_of(tmp_path / "peer", by_prompts=False) == {"simple": metrics}


def test_the_suite_is_a_run_file_with_one_path_for_all_prompts(evaluate, tmp_path):
    from mmclip_launch.run.config import load_run_config

    (tmp_path / "config.toml").write_text(evaluate.RUN + evaluate.suite(tmp_path))
    sets = load_run_config(tmp_path / "config.toml").evaluation.datasets
    assert [one.templates for one in sets] == [*evaluate.PROMPTS, None]
    assert {one.path for one in sets} == {str(tmp_path / "labelled"), str(tmp_path / "captioned")}


def test_the_model_of_both_sides_is_not_a_constant(evaluate, tmp_path):
    import mmclip

    evaluate.write_model(tmp_path / "model")
    scores = mmclip.load(str(tmp_path / "model")).embed_texts(["a cat", "a street at night"])
    assert float((scores[0] - scores[1]).abs().max()) > 0.01
