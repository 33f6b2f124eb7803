"""Results of mmclip, CLIP_benchmark and DataComp as one table."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.collect import collect
from mmclip_eval.results.comparison import compare, metric_order
from mmclip_eval.results.export import to_csv, to_html, to_markdown
from mmclip_eval.results.groups import group_means
from mmclip_eval.results.record import distinct
from mmclip_eval.results.result import EvalResult, ModelIdentity

OURS = EvalResult(
    dataset="colours",
    task="zero_shot_classification",
    public_task="zeroshot_classification",
    metrics={"acc1": Estimate(0.75, (0.5, 1.0), 0.2), "mean_per_class_recall": Estimate(0.1, (0.0, 0.3), 0.2)},
    identity=ModelIdentity(model="tiny", precision="fp32", checkpoint="runs/a/checkpoints/step-9", weights_sha256="aa"),
    num_samples=12,
    dataset_fingerprint="f" * 32,
    preprocess={"size": (8, 8)},
    device="cpu",
    chunk_size=64,
)
# As `clip_benchmark eval` 1.6.2 wrote it: acc5 is not a number where there are fewer than five classes.
CLIP_BENCHMARK = (
    '{"dataset": "wds/colours", "model": "ViT-B-32", "pretrained": "openai", "task": "zeroshot_classification", '
    '"metrics": {"acc1": 0.5, "acc5": NaN, "mean_per_class_recall": 0.4}, "language": "en"}'
)
DATACOMP = (
    '{"key": "vtab/cifar100", "dataset": "CIFAR-100", "metrics": {"acc1": 0.6, "acc5": 0.9, '
    '"mean_per_class_recall": 0.6, "main_metric": 0.6}}\n'
    '{"key": "retrieval/flickr_1k_test_image_text_retrieval", "dataset": "Flickr", "metrics": '
    '{"image_retrieval_recall@1": 0.5, "text_retrieval_recall@1": 0.7, "mean_recall@1": 0.6, "main_metric": 0.6}}\n'
    '{"key": "misc/winogavil", "dataset": "WinoGAViL", "metrics": {"jaccard_score_10-12": 0.4, "main_metric": 0.4}}\n'
)


def of(checkpoint: str, dataset: str, value: float, **changes):
    identity = replace(OURS.identity, checkpoint=checkpoint, weights_sha256=checkpoint)
    metrics = {"acc1": Estimate(value, (value, value), 0.5)}
    return replace(OURS, dataset=dataset, metrics=metrics, identity=identity, dataset_fingerprint=dataset, **changes)


def records_of(folder: Path, *results: EvalResult):
    for result in results:
        result.write(folder)
    return distinct(collect([folder]).records).records


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    OURS.write(tmp_path / "ours")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "result.json").write_text(CLIP_BENCHMARK)
    (tmp_path / "my-datacomp-model").mkdir()
    (tmp_path / "my-datacomp-model" / "eval_results.jsonl").write_text(DATACOMP)
    (tmp_path / "old" / "open_clip_config.json").write_text("{}")
    return tmp_path


def test_results_of_all_three_become_one_list(everything: Path):
    found = collect([everything])
    assert [(record.origin, record.dataset, record.task) for record in found.records] == [
        ("DataComp", "vtab/cifar100", "zeroshot_classification"),
        ("DataComp", "retrieval/flickr_1k_test_image_text_retrieval", "zeroshot_retrieval"),
        ("DataComp", "misc/winogavil", "datacomp"),
        ("CLIP_benchmark", "wds/colours", "zeroshot_classification"),
        ("mmclip", "colours", "zeroshot_classification"),
    ]
    assert found.records[0].model == "my-datacomp-model"
    assert "main_metric" not in found.records[0].metrics
    assert found.records[3].metrics == {"acc1": 0.5, "acc5": None, "mean_per_class_recall": 0.4}
    assert [Path(name).name for name in found.others] == ["open_clip_config.json"]


def test_csv_has_clip_benchmarks_columns_in_one_order_and_reads_back(everything: Path, tmp_path: Path):
    records = collect([everything]).records
    text = to_csv(records)
    assert text == to_csv(records[::-1])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[:9] == [
        *("dataset", "model", "pretrained", "task", "language", "model_fullname"),
        *("acc1", "acc5", "mean_per_class_recall"),
    ]
    old = next(row for row in rows if row["dataset"] == "wds/colours")
    assert (old["acc5"], old["model_fullname"]) == ("", "ViT-B-32 openai")
    ours = next(row for row in rows if row["dataset"] == "colours")
    assert (ours["acc1"], ours["acc1.low"], ours["acc1.high"], ours["acc1.chance"]) == ("0.75", "0.5", "1.0", "0.2")
    (tmp_path / "benchmark.csv").write_text(text)
    again = collect([tmp_path / "benchmark.csv"]).records
    assert {(r.dataset, r.task, r.checkpoint, tuple(r.scores.items())) for r in again} == {
        (r.dataset, r.task, r.checkpoint, tuple(r.scores.items())) for r in records
    }


def test_columns_of_a_table_that_clip_benchmark_built_come_in_any_order(tmp_path: Path):
    path = tmp_path / "benchmark.csv"
    path.write_text("acc1,task,language,model_fullname,pretrained,dataset,model,acc5\n0.5,t,en,m p,p,d,m,nan\n")
    (record,) = collect([path]).records
    assert (record.dataset, record.model, record.pretrained, record.metrics) == (
        "d",
        "m",
        "p",
        {"acc1": 0.5, "acc5": None},
    )


def test_a_result_that_is_given_twice_counts_once_and_a_contradiction_is_told(tmp_path: Path):
    for folder in ("a", "b"):
        OURS.write(tmp_path / folder)
    assert distinct(collect([tmp_path]).records).repeated == 1
    other = next((tmp_path / "b").iterdir())
    content = json.loads(other.read_text())
    content["metrics"]["acc1"], content["run"]["finished"] = 0.25, "2999-01-01T00:00:00+00:00"
    other.write_text(json.dumps(content))
    kept = distinct(collect([tmp_path]).records)
    assert [record.metrics["acc1"] for record in kept.records] == [0.25]
    assert len(kept.contradicted) == 1
    assert str(tmp_path / "a") in kept.contradicted[0]


def test_a_mean_is_over_the_sets_that_every_checkpoint_has_and_says_which(tmp_path: Path):
    results = [of("x", "p", 0.2), of("x", "q", 0.4), of("x", "r", 0.9), of("y", "p", 0.4), of("y", "q", 0.6)]
    (mean,) = group_means(records_of(tmp_path, *results))
    assert mean.by_checkpoint == {"x": pytest.approx(0.3), "y": pytest.approx(0.5)}
    assert mean.words == "mean over 2 sets: p, q; without r (not measured for 1 of 2 checkpoints)"
    means = group_means(records_of(tmp_path, *results), {"named": ["p", "r*"], "rest": ["q"]})
    assert means == []  # of one set there is no mean


def test_no_mean_is_over_several_metrics_or_over_two_ways_of_measuring(tmp_path: Path):
    ranks = replace(
        of("x", "p", 0.5), metrics={"image_retrieval_median_rank": Estimate(30.0, (20.0, 40.0), 50.0, "rank", True)}
    )
    one = of("x", "q", 0.5)
    two = replace(
        one, details={"prompts": {"source": "mmclip:simple (..)", "texts_sha256": "1" * 64}}, subject={"n": 2}
    )
    assert group_means(records_of(tmp_path, ranks, one, two, of("x", "s", 0.1))) == []


def test_names_of_checkpoints_are_as_short_as_tells_them_apart(tmp_path: Path):
    places = ("runs/a/checkpoints/step-9", "runs/b/checkpoints/step-9", "runs/b/checkpoints/step-7")
    records = records_of(tmp_path, *(of(place, "p", 0.5) for place in places))
    labels = dict(zip([r.checkpoint for r in records], compare(records).checkpoints, strict=True))
    assert labels == {places[0]: "a/step-9", places[1]: "b/step-9", places[2]: "b/step-7"}


def test_markdown_and_html_hold_every_figure_and_break_on_no_name(tmp_path: Path):
    records = records_of(tmp_path, of("x", "<b>|p", 0.25), of("y", "<b>|p", 0.5), of("y", "q", 0.125))
    comparison = compare(records)
    markdown, page = to_markdown(comparison), to_html(comparison)
    assert r"**\<b\>\|p, zero-shot classification**" in markdown
    assert "| acc1 | 0.2500 (0.2500 to 0.2500) | 0.5000 (0.5000 to 0.5000) | 0.5000 |" in markdown
    assert "&lt;b&gt;|p, zero-shot classification" in page
    for figure in ("0.2500", "0.5000", "0.1250"):
        assert figure in markdown
        assert figure in page


def test_the_prompts_are_told_where_a_set_was_measured_with_several(tmp_path: Path):
    def with_prompts(name: str, digit: str):
        details = {"prompts": {"source": f"mmclip:{name} (from there)", "texts_sha256": digit * 64}}
        return replace(of("x", "p", 0.5), details=details, subject={"prompts": name})

    titles = [section.title for section in compare(records_of(tmp_path, with_prompts("simple", "1"))).sections]
    assert titles == ["p, zero-shot classification"]
    titles = [section.title for section in compare(records_of(tmp_path, with_prompts("none", "2"))).sections]
    assert titles == ["p, zero-shot classification, none 222222", "p, zero-shot classification, simple 111111"]


def test_metrics_have_an_order_of_their_own():
    names = ["zeta", "text_retrieval_recall@10", "text_retrieval_recall@5", "main_metric", "acc5", "acc1", "alpha"]
    expected = ["acc1", "acc5", "text_retrieval_recall@5", "text_retrieval_recall@10", "alpha", "zeta", "main_metric"]
    assert metric_order(names) == metric_order(names[::-1]) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "is no result: expected a JSON file with dataset"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", CLIP_BENCHMARK.replace("0.5", "[1]"), "acc1: expected a number"),
        ("benchmark.csv", "a,b\n1,2\n", "no column dataset, model"),
        ("eval_results.jsonl", DATACOMP + '{"x": 1}\n', "line 4: expected an object with `key` and `metrics`"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        collect([tmp_path / name])


def test_a_folder_without_results_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no results in .*; 1 JSON files there are something else"):
        collect([tmp_path])
    with pytest.raises(UserError, match="does not exist"):
        collect([tmp_path / "nothing"])
