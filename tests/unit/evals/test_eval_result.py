import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from mmclip.errors import UserError
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.result import EvalResult, ModelIdentity, read_result, result_name
from mmclip_eval.table import notes_of, results_table

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
    notes=("2 of 5 classes have no sample",),
)


def test_a_written_result_reads_back_with_its_intervals_and_chance_levels(tmp_path):
    content = read_result(RESULT.write(tmp_path))
    assert content["metrics"] == {"acc1": 0.75, "acc5": 0.9}
    assert content["intervals"]["acc1"] == [0.5, 1.0]
    assert content["chance"] == {"acc1": 0.2, "acc5": 0.5}
    assert content["bootstrap"]["level"] == 0.95


def test_equal_results_are_equal_bytes_and_leave_no_other_file(tmp_path):
    first = RESULT.write(tmp_path).read_bytes()
    assert RESULT.write(tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["colours_zero_shot_classification.json"]


def test_a_figure_that_is_not_a_number_never_reaches_a_file(tmp_path):
    bad = replace(RESULT, metrics={"acc1": Estimate(math.nan, (0.0, 1.0), 0.2)})
    with pytest.raises(ValueError, match="JSON compliant"):
        bad.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_result_of_other_weights_is_not_overwritten(tmp_path):
    path = RESULT.write(tmp_path)
    before = path.read_bytes()
    other = replace(RESULT, identity=replace(RESULT.identity, weights_sha256="bb"))
    with pytest.raises(UserError, match="belongs to other weights"):
        other.write(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ['{"schema_version": 1, "acc5": NaN}', "{", '{"schema_version": 99}', "[]"])
def test_a_file_that_is_not_strict_or_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.json"):
        read_result(path)


def test_file_names_are_safe_and_no_two_data_sets_share_one():
    names = ["wds/vtab-cifar10", "wds-vtab-cifar10", "WDS/vtab-cifar10", "../../etc", "..", "x" * 300, "x" * 301, "été"]
    files = [result_name(name, "zero_shot_retrieval") for name in names]
    assert len({file.lower() for file in files}) == len(names)
    assert all(not file.startswith(".") and "/" not in file and len(file) < 200 for file in files)
    assert result_name("cifar10", "zero_shot_retrieval") == "cifar10_zero_shot_retrieval.json"
    assert result_name("CIFAR10", "zero_shot_retrieval").startswith("cifar10-")


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
