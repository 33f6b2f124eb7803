"""`image_caption_selection`: which instances count as right, what they are compared with, and what is refused."""

import json

import pytest

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate

PAIR = {"captions": ("json:captions",), "pictures": ("0.png", "1.png")}


@pytest.fixture
def measure(tmp_path, write_tar, colour_model):
    def measured(samples, **settings):
        write_tar(tmp_path / "set.tar", samples)
        config = EvalDatasetConfig(
            name="set", path=str(tmp_path / "set.tar"), tasks=("image_caption_selection",), **settings
        )
        (result,) = evaluate(colour_model, [config], ModelIdentity(model="colours", precision="fp32"), chunk_size=4)
        return result

    return measured


def captions(*texts, **more):
    return json.dumps({"captions": texts, **more}).encode()


def figures(result):
    return {name: (estimate.value, pytest.approx(estimate.chance)) for name, estimate in result.metrics.items()}


def test_one_picture_takes_its_own_caption_or_a_wrong_one(measure, picture):
    samples = [
        {"png": picture("red"), "json": captions("a red thing", "a green thing")},
        {"png": picture("blue"), "json": captions("a green thing", "a blue thing")},
        {"png": picture("red"), "json": captions("red", "also red")},  # alike to the model: a tie, which is lost
        {"png": picture("green"), "json": captions("green", "red")},
    ]
    result = measure(samples, captions=("json:captions",))
    assert figures(result) == {"text_acc": (0.5, 0.5), "image_acc": (1.0, 1.0), "acc": (0.5, 0.5)}
    assert (result.details["num_captions"], result.details["num_pictures"], result.num_samples) == (8, 4, 4)


def test_two_pictures_and_two_captions_are_scored_as_winoground(measure, picture):
    samples = [
        {"0.png": picture("red"), "1.png": picture("blue"), "json": captions("red", "blue")},
        {"0.png": picture("red"), "1.png": picture("blue"), "json": captions("blue", "red")},
        # Each picture prefers its own caption, but the second caption is as near to either picture: a tie, a loss.
        {"0.png": picture("red"), "1.png": picture("blue"), "json": captions("red", "red and blue")},
    ]
    result = measure(samples, **PAIR)
    assert figures(result) == {"text_acc": (2 / 3, 1 / 4), "image_acc": (1 / 3, 1 / 4), "acc": (1 / 3, 1 / 6)}


def test_instances_of_several_shapes_share_a_set_and_their_chances_are_averaged(measure, picture):
    samples = [
        {"0.png": picture("red"), "json": captions("red", "blue", "green")},
        {"0.png": picture("red"), "1.png": picture("blue"), "json": captions("red", "blue")},
        {"0.png": picture("blue"), "1.png": picture("red"), "json": captions("red", "blue")},
    ]
    result = measure(samples, **PAIR)
    assert figures(result) == {
        "text_acc": (2 / 3, (1 / 3 + 1 / 4 + 1 / 4) / 3),
        "image_acc": (2 / 3, (1 + 1 / 4 + 1 / 4) / 3),
        "acc": (2 / 3, (1 / 3 + 1 / 6 + 1 / 6) / 3),
    }


def test_groups_have_a_row_each(measure, picture):
    samples = [
        {"png": picture("red"), "json": captions("red", "blue", kind="swap")},
        {"png": picture("red"), "json": captions("blue", "red", kind="swap")},
        {"png": picture("red"), "json": captions("red", "green", kind="add")},
    ]
    table = measure(samples, captions=("json:captions",), group="json:kind").tables["groups"]
    assert table.columns == ("group", "samples", "text_acc", "image_acc", "acc")
    assert table.rows == [("add", 1, 1.0, 1.0, 1.0), ("swap", 2, 0.5, 1.0, 0.5)]


def test_an_instance_with_nothing_to_choose_from_is_refused(measure, picture):
    samples = [
        {"png": picture("red"), "json": captions("red", "blue")},
        {"png": picture("red"), "json": captions("red")},
    ]
    with pytest.raises(UserError, match=r"sample set/set\.tar/s0000001: one picture and one caption leave nothing"):
        measure(samples, captions=("json:captions",))
