import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from mmclip.errors import UserError
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.report.scores.rows import gather_results
from mmclip_eval.results.names import result_name
from mmclip_eval.results.result import EvalResult, ModelIdentity, read_result
from mmclip_eval.results.table import notes_of, results_table

RESULT = EvalResult(
    dataset="colours",
    task="zero_shot_classification",
    metrics={"acc1": Estimate(0.75, (0.5, 1.0), 0.2), "acc5": Estimate(0.9, (0.1, 1.0), 0.5)},
    identity=ModelIdentity(model="tiny", precision="fp32", checkpoint="runs/a", weights_sha256="aa"),
    num_samples=1234,
    dataset_fingerprint="f" * 32,
    preprocess={"size": (8, 8)},
    device="cpu",
    chunk_size=64,
    public_task="zeroshot_classification",
    wall_seconds=1.5,
    notes=("2 of 5 classes have no sample",),
)


def test_a_written_result_reads_back_with_its_intervals_and_chance_levels(tmp_path):
    content = read_result(RESULT.write(tmp_path))
    assert content["metrics"] == {"acc1": 0.75, "acc5": 0.9}
    assert content["intervals"]["acc1"] == [0.5, 1.0]
    assert content["chance"] == {"acc1": 0.2, "acc5": 0.5}
    assert content["bootstrap"]["level"] == 0.95


def test_a_result_in_memory_is_what_its_file_says(tmp_path):
    """A report takes one for the other: a tuple in the one and a list in the other would make two results of them."""
    result = replace(RESULT, options={"recall_at": (1, 5, 10)}, details={"shots": (1, 2)})
    written, here = read_result(result.write(tmp_path)), result.to_json()
    for content in (written, here):
        content["run"].pop("finished")
    assert written == here
    assert len(gather_results(tmp_path, [result])) == 1


def test_equal_results_have_one_file_and_differ_in_their_time_alone(tmp_path):
    first = read_result(RESULT.write(tmp_path))
    second = read_result(RESULT.write(tmp_path))
    assert {**first, "run": second["run"]} == second
    (path,) = tmp_path.iterdir()
    assert path.name == f"colours_runs-a_zeroshot_classification_{first['config_hash'][:10]}.json"


def test_the_file_is_a_superset_of_clip_benchmarks(tmp_path):
    content = read_result(RESULT.write(tmp_path))
    six = {key: content[key] for key in ("dataset", "model", "pretrained", "task", "metrics", "language")}
    assert six == {
        "dataset": "colours",
        "model": "tiny",
        "pretrained": "runs/a",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.75, "acc5": 0.9},
        "language": "en",
    }
    assert (content["n_seen"], content["n_skipped"], content["n_expected"]) == (1234, 0, 1234)
    assert content["run"]["wall_seconds"] == 1.5


def test_a_figure_that_is_not_a_number_never_reaches_a_file(tmp_path):
    bad = replace(RESULT, metrics={"acc1": Estimate(math.nan, (0.0, 1.0), 0.2)})
    with pytest.raises(ValueError, match="JSON compliant"):
        bad.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_one_name_and_prompts_of_one_set_have_files_of_their_own(tmp_path):
    identity = RESULT.identity
    others = [
        RESULT,
        replace(RESULT, identity=replace(identity, weights_sha256="bb")),
        replace(RESULT, identity=replace(identity, checkpoint="elsewhere/runs/a", weights_sha256="cc")),
        replace(RESULT, subject={"prompts": "first"}),
        replace(RESULT, subject={"prompts": "second"}),
    ]
    assert len({result.write(tmp_path) for result in others}) == len(list(tmp_path.iterdir())) == len(others)


def test_a_file_about_something_else_is_not_overwritten(tmp_path):
    path = RESULT.write(tmp_path)
    before = path.read_text().replace(RESULT.config_hash, "another")
    path.write_text(before)
    with pytest.raises(UserError, match="is about something else"):
        RESULT.write(tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ['{"schema_version": 2, "acc5": NaN}', "{", '{"schema_version": 99}', "[]"])
def test_a_file_that_is_not_strict_or_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.json"):
        read_result(path)


def test_file_names_are_safe_and_begin_with_what_the_result_is_about():
    names = ["wds/vtab-cifar10", "WDS/vtab-cifar10", "../../etc", "..", "x" * 300, "été"]
    files = [result_name(name, "runs/a/checkpoints/step-5", "zeroshot_retrieval", "0" * 64) for name in names]
    assert all(not file.startswith(".") and "/" not in file and len(file) < 200 for file in files)
    assert files[0] == "wds-vtab-cifar10_a-step-5_zeroshot_retrieval_0000000000.json"
    assert result_name("a", "local-dir:/x/weights", "t", "1" * 64) == "a_x-weights_t_1111111111.json"


def test_the_table_shows_each_figure_beside_its_interval_and_chance():
    printed = io.StringIO()
    Console(width=80, file=printed).print(results_table([replace(RESULT, dataset="[red]set")]))
    row = next(line for line in printed.getvalue().splitlines() if "acc1" in line)
    cells = [cell.strip() for cell in row.strip("│┃ ").split("│")]
    assert cells == ["acc1", "0.7500", "0.5000 to 1.0000", "0.2000"]
    heading = next(line for line in printed.getvalue().splitlines() if "[red]set" in line)
    assert "1,234" in heading
    assert notes_of([RESULT, RESULT]) == ["colours: 2 of 5 classes have no sample"]


def test_json_holds_no_surprise_types():
    assert json.loads(json.dumps(RESULT.to_json(), allow_nan=False))["preprocess"]["size"] == [8, 8]
