"""`worst_group`: DataComp's names, which groups are compared, and which are named and left out."""

import json

import pytest
from sklearn.metrics import f1_score, recall_score

from mmclip.errors import UserError
from mmclip_eval.tasks.worst_group import WorstGroupTask

# Of each region: colour that is seen, class that it is labelled as.
RIGHT, WRONG = ("red", "red"), ("red", "blue")
REGIONS = {
    "north": [RIGHT] * 9 + [WRONG],
    "south": [RIGHT] * 5 + [WRONG] * 5,
    "tiny": [WRONG] * 2,
    "Other": [WRONG] * 10,
}


@pytest.fixture
def measure(tmp_path, write_tar, picture, colour_model, result_of, setup_with):
    def measured(**options):
        samples = [
            {"png": picture(seen), "cls": label.encode(), "json": json.dumps({"region": region}).encode()}
            for region, pairs in REGIONS.items()
            for seen, label in pairs
        ]
        write_tar(tmp_path / "set.tar", samples)
        settings = {"class_names": ("red", "green", "blue"), "templates": "none", "group": "json:region"}
        task = WorstGroupTask(**{"min_group_size": 5, "left_out": ("Other",)} | options)
        return result_of(colour_model, setup_with(tmp_path / "set.tar", task, **settings), chunk_size=4)

    return measured


def test_the_worst_group_is_the_lowest_of_those_large_enough_and_the_others_are_named(measure):
    result = measure()
    assert result.metrics["acc_wg"].value == 0.5
    assert result.metrics["acc_avg"].value == pytest.approx(14 / 32)
    assert result.details["worst_group"] == {"group": "south", "samples": 10}
    assert result.details["groups_not_compared"] == {"Other": 10, "tiny": 2}
    assert result.notes[-1] == "1 groups under 5 samples are not compared: tiny (2)"
    assert result.tables["groups"].rows == [
        ("Other", 10, 0.0, False),
        ("north", 10, 0.9, True),
        ("south", 10, 0.5, True),
        ("tiny", 2, 0.0, False),
    ]


def test_the_macro_figures_are_those_of_scikit_learn(measure):
    pairs = [pair for pairs in REGIONS.values() for pair in pairs]
    truth, said = [label for _, label in pairs], [seen for seen, _ in pairs]
    present = sorted(set(truth))
    metrics = measure().metrics
    f1 = f1_score(truth, said, labels=present, average="macro")
    assert metrics["F1-macro_all"].value == pytest.approx(f1, abs=1e-12)
    recall = recall_score(truth, said, labels=present, average="macro")
    assert metrics["recall-macro_all"].value == pytest.approx(recall, abs=1e-12)


def test_the_figures_take_the_name_that_is_given(measure):
    assert "acc_worst_region" in measure(name="worst_region").metrics


def test_a_smaller_minimum_lets_a_tiny_group_decide_and_its_interval_says_how_little_that_is(measure):
    result = measure(min_group_size=2)
    assert result.metrics["acc_wg"].value == 0.0
    assert result.details["worst_group"] == {"group": "tiny", "samples": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_group_size": 11}, "no group has 11 samples, the largest has 10"),
        ({"left_out": ("East",)}, "left_out names 'East', which is no group; known: Other, north, south, tiny"),
        ({"name": "a b"}, "expected a size from 1 on, and a name of letters"),
    ],
)
def test_what_leaves_no_group_to_compare_is_refused(measure, options, message):
    with pytest.raises(
        ValueError, match=message
    ):  # of an option alone pydantic tells, which `mmclip` says in its words
        measure(**options)


def test_a_set_without_groups_is_refused(classification_folder, colour_model, result_of, setup_with):
    with pytest.raises(UserError, match="groups are needed, and no place is given"):
        result_of(colour_model, setup_with(classification_folder, WorstGroupTask()))
