"""What holds of every task in the registry: a new one fails here until it has a set to run on and a row in the docs."""

import json
from pathlib import Path

import pytest
from mmclip_eval.tasks.registry import TASKS

from mmclip.errors import UserError

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
