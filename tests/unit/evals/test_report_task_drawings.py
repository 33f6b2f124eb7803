"""Drawings from the tables of results: what is in them, what is left out, and that other tables draw nothing."""

import re
from typing import Any

import pytest

from mmclip_eval.report.figures import Bin, Dot, Reference, Row, Stage, dots, growth, reliability
from mmclip_eval.report.scores.task_drawings import ALL_CLASSES, ENDS_OF_CLASSES, MOST_GROUPS, drawn_tables

PER_CLASS = ["class", "samples", "correct", "recall", "predicted"]


def content(tables: dict[str, Any], **more: Any) -> dict[str, Any]:
    empty = {"metrics": {}, "intervals": {}, "chance": {}, "dataset": "set", "task_type": "t"}
    return {**empty, "tables": {name: {"columns": c, "rows": r} for name, (c, r) in tables.items()}, **more}


def classes(count: int, samples: int = 10) -> list[list[Any]]:
    return [[f"class {i}", samples, i % (samples + 1), 0.0, 0] for i in range(count)]


def described(svg: str) -> str:
    found = re.search("<desc>(.*?)</desc>", svg)
    assert found is not None
    return found[1]


def test_few_classes_are_drawn_together_from_the_best_to_the_worst():
    (card,) = drawn_tables(content({"per_class": (PER_CLASS, classes(4))})).class_cards
    assert re.findall(r"class \d", described(card.svg)) == ["class 3", "class 2", "class 1", "class 0"]
    assert "class 3: 30.0 % (10.8 % to 60.3 %), chance 25.0 %" in described(card.svg)  # Wilson's, as scipy gives it
    assert "left out" not in card.caption


def test_of_many_classes_the_best_and_the_worst_are_drawn_and_tiny_ones_are_counted():
    rows = [*classes(ALL_CLASSES + 1), ["tiny", 1, 1, 1.0, 1], ["none", 0, 0, None, 0]]
    best, worst = drawn_tables(content({"per_class": (PER_CLASS, rows)})).class_cards
    assert described(best.svg).count("class ") == described(worst.svg).count("class ") == ENDS_OF_CLASSES
    assert described(best.svg).startswith("class 10: 100.0 %")
    assert f"the worst {ENDS_OF_CLASSES} of {ALL_CLASSES + 1} classes" in worst.svg
    assert "tiny" not in best.svg + worst.svg
    assert "2 classes of fewer than 5 pictures are left out" in best.caption


def test_classes_that_rank_pictures_are_drawn_by_their_precision():
    rows = [["cat", 4, 0.5], ["dog", 0, None], ["猫", 3, 0.75]]
    (card,) = drawn_tables(content({"per_class": (["class", "positives", "average_precision"], rows)})).class_cards
    assert described(card.svg) == "猫: 75.0 %; cat: 50.0 %."


def test_confusions_are_a_matrix_of_few_classes_and_pairs_of_many():
    confusion = (["class", "predicted", "count"], [[0, 0, 3], [0, 1, 7], [1, 1, 10], [2, 0, 1], [2, 2, 9]])
    few = drawn_tables(content({"per_class": (PER_CLASS, classes(3)), "confusion": confusion}))
    assert "class 0 taken for class 1: 70 %" in described(few.class_cards[-1].svg)
    assert few.pairs == ()
    many = drawn_tables(content({"per_class": (PER_CLASS, classes(40)), "confusion": confusion}))
    assert [(p.truth, p.taken_for, p.count, p.of) for p in many.pairs] == [("class 0", "class 1", 7, 10)]
    left = drawn_tables(content({"per_class": (PER_CLASS, classes(40)), "confusion": confusion}), with_confusion=False)
    assert left.pairs == ()


def test_the_reliability_diagram_leaves_out_empty_bins_and_says_how_sure_the_model_is():
    columns = ["above", "up_to", "samples", "confidence", "accuracy"]
    rows = [[0.0, 0.5, 8, 0.4, 0.25], [0.5, 1.0, 0, None, None]]
    (card,) = drawn_tables(content({"reliability": (columns, rows)}, mean_confidence=0.4)).cards
    assert described(card.svg) == "8 samples of mean confidence 40.0 %: 25.0 % right."
    assert card.caption.startswith("On average the model is 40.0 % sure and 25.0 % right.")


def test_the_worst_group_is_marked_and_small_ones_are_counted():
    columns = ["group", "samples", "acc1", "compared"]
    rows = [["<north>", 50, 0.5, True], ["south", 60, 0.25, True], ["tiny", 2, 0.0, False], ["empty", 0, None, False]]
    found = content({"groups": (columns, rows)}, worst_group={"group": "south"}, num_classes=10)
    (card,) = drawn_tables(found).cards
    assert described(card.svg).startswith(
        "&lt;north&gt; (50): 50.0 % (36.6 % to 63.4 %), chance 10.0 %; south (60): 25.0 %"
    )
    assert "var(--alarm" in card.svg
    assert "1 groups are too small to be compared" in card.caption
    many = [[f"g{i:03}", 100, i / 100, True] for i in range(MOST_GROUPS + 5)]
    (card,) = drawn_tables(content({"groups": (columns, many)}, worst_group={"group": "g000"})).cards
    assert "The 5 in the middle are left out." in card.caption
    assert "g000" in card.svg
    assert "g044" in card.svg


def test_few_shots_stand_beside_zero_shot_and_the_probe_of_all_examples():
    rows = [[shots, seed, 1.0, 0.1 * shots + 0.01 * seed] for shots in (1, 4) for seed in (0, 1)]
    found = content(
        {"draws": (["shots", "seed", "strength", "acc1"], rows)},
        metrics={"lp_acc1@1": 0.105, "lp_acc1@4": 0.405},
        intervals={"lp_acc1@1": [0.05, 0.2], "lp_acc1@4": [0.3, 0.5]},
        chance={"lp_acc1@1": 0.02, "lp_acc1@4": 0.02},
    )
    zero = content({}, task_type="zero_shot_classification", metrics={"acc1": 0.25})
    probe = content({}, task_type="linear_probe", metrics={"lp_acc1": 0.6})
    (card,) = drawn_tables(found, [probe, zero]).cards
    assert described(card.svg) == (
        "1 examples: 10.5 % (5.00 % to 20.0 %); 4 examples: 40.5 % (30.0 % to 50.0 %); zero-shot: 25.0 %; "
        "all examples: 60.0 %; chance: 2.00 %."
    )
    assert "means over 2 draws" in card.caption


def test_scores_of_outliers_are_drawn_beside_those_of_the_set():
    columns = ["score", "set", "above", "up_to", "samples"]
    rows = [
        ["energy", name, i, i + 1, n] for name, ns in (("set", (0, 1, 3)), ("o", (4, 1, 0))) for i, n in enumerate(ns)
    ]
    (card,) = drawn_tables(content({"scores": (columns, rows)}, metrics={"energy_auroc@o": 0.9})).cards
    assert described(card.svg).startswith("set: 4, median 2.333; o: 5, median 0.625")
    assert "90.0 % of the time" in card.caption


def test_tables_of_other_columns_and_results_without_tables_draw_nothing():
    other = {
        name: (["a"], [[1]]) for name in ("per_class", "confusion", "reliability", "groups", "draws", "scores", "x")
    }
    assert drawn_tables(content(other)) == drawn_tables(content({}))
    assert drawn_tables(content({})).cards == drawn_tables(content({})).class_cards == ()


@pytest.mark.parametrize("figure", [dots("t", [], []), growth("t", [], x_label="x"), reliability("t", [])])
def test_a_figure_of_nothing_says_so(figure: str):
    assert "no data yet" in figure


def test_figures_of_extreme_values_stay_inside_their_frame():
    drawn = [
        growth("t", [Stage(1, 1.0, 1.0, 1.0)], [Reference(0.0, "a long name of a level" * 3)], x_label="x"),
        reliability("t", [Bin(0.9, 1.0, 1, 1.0, 0.0, 0.0, 0.79), Bin(0.0, 0.1, 10**9, 0.01, 1.0, 1.0, 1.0)]),
        dots(
            "t",
            [Row("s" * 200, [Dot(-3.5), None], 0.1), Row("r", [Dot(2e6, 1e6, 3e6), Dot(0.0)])],
            ("a", "b"),
            percent=False,
        ),
    ]
    for svg in drawn:
        assert "nan" not in svg
        assert "inf" not in svg


def test_more_models_than_colours_are_refused():
    with pytest.raises(ValueError, match="9 models: expected at most 8"):
        dots("t", [Row("s", [Dot(0.5)] * 9)], [str(i) for i in range(9)])
