"""A page over several checkpoints from results alone: who is marked as the best, what is not compared, and its size."""

import re
from dataclasses import replace

import pytest

from mmclip_eval.report.pages.comparison_page import (
    MOST_BYTES,
    MOST_CHECKPOINTS,
    clear_wins,
    render_comparison,
    write_comparison,
)
from mmclip_eval.report.scores.matrices import Cell, MetricRow, best_of, matrices
from mmclip_eval.results.record import Record

EVIL = '<script>alert("x")</script>&amp;\u202e"\'>'


def record(checkpoint: str, dataset: str = "set", **changes) -> Record:
    own = {
        "task": "zeroshot_classification",
        "model": "m",
        "pretrained": checkpoint,
        "language": "en",
        "metrics": {"acc1": 0.5},
        "origin": "mmclip",
        "path": "p",
        "intervals": {"acc1": (0.4, 0.6)},
        "chance": {"acc1": 0.1},
        "units": {"acc1": "fraction"},
        "fingerprint": "f",
        "facts": {"n_seen": 10, "weights_sha256": checkpoint},
    }
    return Record(dataset=dataset, **{**own, **changes})


def scored(checkpoint: str, value: float, half: float, metric: str = "acc1", **changes) -> Record:
    interval = {metric: (value - half, value + half)}
    return record(checkpoint, metrics={metric: value}, intervals=interval, **changes)


def marks(row: MetricRow) -> list[bool]:
    return [one is not None and one.best for one in row.cells]


def cell(low: float, high: float) -> Cell:
    return Cell((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("cells", "less", "best"),
    [
        ([cell(0.5, 0.6), cell(0.1, 0.4)], False, 0),
        ([cell(0.5, 0.6), cell(0.1, 0.4)], True, 1),
        ([cell(0.5, 0.6), cell(0.1, 0.5)], False, None),  # they touch
        ([cell(0.5, 0.6), None, cell(0.1, 0.4)], False, 0),
        ([cell(0.5, 0.6), None], False, None),  # nobody to be better than
        ([cell(0.5, 0.6), Cell(0.2)], False, None),  # no interval, nothing to say
        ([cell(0.5, 0.6), cell(0.4, 0.55), cell(0.1, 0.2)], False, None),
    ],
)
def test_the_best_is_marked_only_where_its_interval_overlaps_no_other(cells, less: bool, best: int | None):
    assert best_of(cells, less) == best


def test_less_is_better_where_the_result_says_so_and_for_ranks():
    low, high = scored("a", 0.1, 0.01, "error"), scored("b", 0.9, 0.01, "error")
    for changes, best in (({}, [False, True]), ({"lower_is_better": frozenset({"error"})}, [True, False])):
        ((own,),) = [matrix.sets for matrix in matrices([replace(low, **changes), replace(high, **changes)])]
        assert marks(own.rows[0]) == best
    ((ranks,),) = [m.sets for m in matrices([scored("a", 2.0, 0.5, "x_rank"), scored("b", 9.0, 0.5, "x_rank")])]
    assert marks(ranks.rows[0]) == [True, False]
    assert not matrices([scored("a", 9.0, 0.5, "x_rank", units={"x_rank": "rank"})])[0].sets[0].rows[0].in_percent


def test_nobody_is_the_best_on_other_samples():
    ((own,),) = [m.sets for m in matrices([scored("a", 0.9, 0.01), scored("b", 0.1, 0.01, fingerprint="other")])]
    assert not any(marks(own.rows[0]))
    assert "not the same samples for every checkpoint" in own.note


def test_every_figure_stands_in_the_table_and_every_metric_has_a_drawing():
    records = [scored("a", 0.9, 0.01), scored("b", 0.1, 0.01), scored("b", 0.3, 0.1, dataset="only b")]
    text = render_comparison(records, "mmclip report", "a loom")
    for words in ("0.9000", "0.8900 to 0.9100", "0.1000", "0.3000", "not measured", "2 checkpoints, 2 sets", "only b"):
        assert words in text, words
    assert text.count("★</span>") == 1
    assert text.count("<svg viewBox") == 1
    assert "clearly the best in 1 of 1 figures" in text
    assert clear_wins(matrices(records), ("a", "b")) == [("a", 1, 1), ("b", 0, 1)]


def test_results_of_others_have_no_interval_and_still_a_place():
    bare = [record(name, origin="CLIP_benchmark", intervals={}, chance={}, units={}, fingerprint="") for name in "ab"]
    text = render_comparison(bare, "c", "m")
    assert "0.5000" in text
    assert "★</span>" not in text
    assert matrices(bare)[0].sets[0].rows[0].in_percent


def test_tasks_stand_in_the_order_of_the_registry_and_unknown_ones_last():
    tasks = ["my_task", "linear_probe", "zeroshot_classification"]
    assert [m.task for m in matrices([record("a", task=task) for task in tasks])] == [
        "zero-shot classification",
        "linear probe",
        "my task",
    ]


def test_names_stay_text_and_the_page_asks_for_nothing(tmp_path):
    records = [
        record(name, EVIL, model=EVIL, pretrained=f"{name}{EVIL}", task=EVIL, metrics={EVIL: 0.5}) for name in "ab"
    ]
    size = write_comparison(tmp_path / "deep" / "page.html", records, EVIL, EVIL)
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert size == len(text.encode())
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#)', text) == []


def test_a_page_of_very_much_is_bounded_and_says_what_is_left_out():
    metrics = {f"metric_{i}": 0.5 for i in range(4)}
    intervals = dict.fromkeys(metrics, (0.4, 0.6))
    records = [
        record(f"checkpoint {c}", f"set {d}", metrics=metrics, intervals=intervals)
        for c in range(MOST_CHECKPOINTS + 2)
        for d in range(3)
    ]
    bare = len(render_comparison(records, "c", "m", 0).encode())
    text = render_comparison(records, "c", "m", bare + 50_000)
    assert len(text.encode()) < bare + 50_000 < MOST_BYTES
    assert "drawings are left out; the tables hold every figure" in text
    assert 0 < text.count("<svg") < 4
    assert text.count('class="interval"') == 4 * 10 * 3
    assert "2 more checkpoints are in the table alone." in text


def test_the_same_results_give_the_same_page():
    records = [scored("a", 0.9, 0.01), scored("b", 0.1, 0.01)]
    assert render_comparison(records, "c", "m") == render_comparison(records, "c", "m")
