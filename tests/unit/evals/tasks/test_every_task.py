"""What holds of every task in the registry: a new one fails here until it has a set to run on and a row in the docs."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mmclip.errors import UserError
from mmclip_eval.evidence import Evidence
from mmclip_eval.model_card import CardFacts, model_card, results_of
from mmclip_eval.report.pages.run_page import write_page
from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.results.table import results_table
from mmclip_eval.suite import evaluate
from mmclip_eval.tasks.registry import TASKS

ROOT = Path(__file__).parents[4]
every_task = pytest.mark.parametrize("task", TASKS)


@every_task
def test_a_task_has_a_row_in_the_docs_and_tests_of_its_own(task):
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert f"\n| `{task}` |" in page, "docs/evaluation.md: no row for the task"
    name = TASKS[task].__name__
    tests = [path for path in Path(__file__).parents[1].rglob("test_*.py") if path.name != Path(__file__).name]
    assert [path for path in tests if task in path.read_text() or name in path.read_text()]


@every_task
def test_a_model_that_sees_something_gives_figures_with_intervals_in_strict_json(task, setup_of, result_of, tone_model):
    result = result_of(tone_model, setup_of(task))
    assert result.task == task
    assert result.metrics
    for name, estimate in result.metrics.items():
        low, high = estimate.interval
        assert low <= estimate.value <= high, name
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["metrics"].keys() >= result.metrics.keys()


@every_task
def test_a_collapsed_model_scores_no_better_than_chance(task, setup_of, result_of, collapsed_model):
    for name, estimate in result_of(collapsed_model, setup_of(task)).metrics.items():
        if estimate.chance is not None:
            better = estimate.chance - estimate.value if estimate.lower_is_better else estimate.value - estimate.chance
            assert better <= 1e-12, name


@every_task
def test_a_model_of_nan_is_an_error_that_names_the_first_sample(task, setup_of, result_of, nan_model):
    with pytest.raises(UserError, match=r"s0000002\b.*not finite|s0000001 \.1\.png: .*not finite"):
        result_of(nan_model, setup_of(task))


@every_task
def test_the_chunk_that_is_encoded_at_a_time_moves_no_digit(task, setup_of, result_of, tone_model):
    setup = setup_of(task)
    whole, parts = (result_of(tone_model, setup, chunk_size=size).to_json() for size in (64, 5))
    assert whole["metrics"] == parts["metrics"]
    assert whole["intervals"] == parts["intervals"]
    assert whole["tables"] == parts["tables"]


@every_task
def test_every_figure_stands_on_the_page_and_in_the_table_of_the_terminal(task, setup_of, tone_model, tmp_path):
    evidence: list[Evidence] = []
    identity = ModelIdentity(model="tones", precision="fp32", weights_sha256="00")
    results = list(evaluate(tone_model, setup_of(task).sets, identity, keep=evidence.append))
    subject = Subject(name="tones", architecture="tones", command="mmclip eval", machine="here", logit_scale=20.0)
    write_page(tmp_path / "index.html", subject, None, tmp_path / "results", results, evidence)
    page = (tmp_path / "index.html").read_text()
    console = Console(width=100, record=True, file=StringIO())
    console.print(results_table(results))
    shown = console.export_text()
    for result in results:
        for name, estimate in result.metrics.items():
            assert f"<code>{name}</code>" in page, name
            assert f"{estimate.value:.4f}" in page, name
            assert name in shown, name


@every_task
def test_written_results_are_read_back_and_made_into_a_card(task, setup_of, result_of, tone_model, tmp_path):
    result = result_of(tone_model, setup_of(task))
    result.write(tmp_path)
    found, left_out = results_of(tmp_path, ["00"])
    assert left_out == ()
    facts = CardFacts(
        name="tones",
        folder="tones",
        model_cfg={"vision_cfg": {}, "text_cfg": {}, "embed_dim": 24},
        preprocess={"size": (6, 6), "resize_mode": "", "interpolation": "", "mean": (0.0,), "std": (1.0,)},
        parameters=0,
        weights_file="a",
        weights_sha256="00",
        difference=None,
        library="open_clip",
        usage="import open_clip",
        results=found,
    )
    card = model_card(facts)
    for name, estimate in result.metrics.items():
        assert f"| {name} | {estimate.value:.4f} |" in card.replace("\\", ""), name
    assert "fewshot_k" not in card  # a setting is no score
