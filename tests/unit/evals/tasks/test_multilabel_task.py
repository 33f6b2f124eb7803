"""`multilabel_classification`: where a sample keeps its several classes, and what is refused."""

import io
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mmclip.errors import UserError
from mmclip_eval.tasks.multilabel_classification import MultilabelClassification

NAMES = ("red", "green", "blue")
SHOWN = [(0, 1), (0,), (1, 2), (2,), (0, 2), (1,)]
SEEN = ("red", "red", "green", "blue", "white", "red")


def vector(values, dtype=np.int64) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype=dtype))
    return buffer.getvalue()


@pytest.fixture
def measure(tmp_path, write_tar, picture, colour_model, result_of, setup_with):
    def measured(members, **settings):
        samples = [{"png": picture(seen)} | member for seen, member in zip(SEEN, members, strict=True)]
        write_tar(tmp_path / "set.tar", samples)
        setup = setup_with(tmp_path / "set.tar", MultilabelClassification(), templates="none", **settings)
        return result_of(colour_model, setup, chunk_size=4)

    return measured


def as_vectors(dtype=np.int64):
    return [{"npy": vector([i in shown for i in range(3)], dtype)} for shown in SHOWN]


def as_json(entry):
    return [{"json": json.dumps({"labels": [entry(i) for i in shown]}).encode()} for shown in SHOWN]


def test_mean_average_precision_is_that_of_scikit_learn(measure, colour_model):
    result = measure(as_vectors(), class_names=NAMES)
    texts = colour_model.embed_texts(NAMES)
    scores = colour_model.palette.new_tensor(np.eye(5)[[0, 0, 1, 2, 3, 0]]) @ texts.T
    truth = np.array([[i in shown for i in range(3)] for shown in SHOWN])
    expected = average_precision_score(truth, scores.numpy(), average=None)
    assert result.metrics["mean_average_precision"].value == pytest.approx(expected.mean(), abs=1e-7)
    rows = result.tables["per_class"].rows
    assert [row[:2] for row in rows] == [("red", 3), ("green", 3), ("blue", 3)]
    assert [row[2] for row in rows] == pytest.approx(expected, abs=1e-7)


def test_vectors_lists_of_names_and_lists_of_indices_are_one_and_the_same(measure):
    found = [
        measure(as_vectors(np.float32), class_names=NAMES),
        measure(as_json(lambda i: i), class_names=NAMES, label="json:labels"),
        measure(as_json(NAMES.__getitem__), class_names=NAMES, label="json:labels"),
    ]
    assert len({json.dumps(result.to_json()["metrics"]) for result in found}) == 1
    named = measure(as_json(NAMES.__getitem__), label="json:labels")
    assert [row[0] for row in named.tables["per_class"].rows] == ["blue", "green", "red"]


def test_a_folder_that_declares_the_type_needs_no_configuration(tmp_path, setup_of, result_of, tone_model):
    setup_of("multilabel_classification")
    from mmclip_eval.datasets import EvalDatasetConfig

    (root,) = {path.parent for path in tmp_path.rglob("dataset_type.txt")}
    result = result_of(
        tone_model, type("Setup", (), {"sets": (EvalDatasetConfig(name="a", path=str(root)),), "measured": "a"})
    )
    assert result.task == "multilabel_classification"


def test_a_class_that_no_picture_shows_is_left_out_and_told(measure):
    with_white = [{"npy": vector([*(i in shown for i in range(3)), 0])} for shown in SHOWN]
    result = measure(with_white, class_names=(*NAMES, "white"))
    assert result.metrics == measure(as_vectors(), class_names=NAMES).metrics
    assert result.tables["per_class"].rows[3] == ("white", 0, None)
    assert "1 of 4 classes are shown by no sample; mean_average_precision leaves them out" in result.notes


@pytest.mark.parametrize(
    ("member", "settings", "message"),
    [
        ({"npy": vector([1, 0])}, {"class_names": NAMES}, r"s0000005, npy: expected 3 zeros and ones.*shape \(2,\)"),
        ({"npy": vector([2, 0, 1])}, {"class_names": NAMES}, r"expected 3 zeros and ones.*values \[0, 1, 2\]"),
        ({"npy": b"no array"}, {"class_names": NAMES}, r"s0000005, member \.npy: not readable"),
        ({}, {"class_names": NAMES}, "s0000005: no labels at npy: set label"),
        ({"npy": vector([1, 0, 1])}, {}, "labels are indices but there are no class names"),
    ],
)
def test_labels_that_cannot_be_read_name_the_sample(measure, member, settings, message):
    with pytest.raises(UserError, match=message):
        measure([*as_vectors()[:5], member], **settings)


def test_a_name_of_two_classes_is_refused_and_an_index_is_not(measure):
    twins = {"label": "json:labels", "class_names": ("red", "red", "blue")}
    with pytest.raises(UserError, match="'red' is the name of several classes"):
        measure(as_json(lambda i: ("red", "red", "blue")[i]), **twins)
    assert measure(as_json(lambda i: i), **twins).metrics


def test_a_vector_may_stand_in_a_member_of_any_name(measure):
    plain = measure(as_vectors(), class_names=NAMES)
    named = measure([{"labels.npy": member["npy"]} for member in as_vectors()], label="labels.npy", class_names=NAMES)
    assert named.metrics == plain.metrics


def test_a_name_that_is_no_class_is_told(measure):
    members = [*as_json(NAMES.__getitem__)[:5], {"json": b'{"labels": ["pink"]}'}]
    with pytest.raises(UserError, match=r"s0000005, json:labels: 'pink' is none of the 3 classes"):
        measure(members, class_names=NAMES, label="json:labels")
