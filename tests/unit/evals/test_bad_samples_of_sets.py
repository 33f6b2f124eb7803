"""Samples that cannot be used: an error by default; else left out of every task alike, counted, named, and few."""

import io
import json

import numpy as np
import pytest
import torch

from mmclip.errors import BadSampleError, UserError
from mmclip_data.features.encode import encode_images
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset, open_dataset
from mmclip_eval.places import open_place, place_of
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate, evaluate_opened

IDENTITY = ModelIdentity(model="colours", precision="fp32")
BOTH = ("zero_shot_classification", "zero_shot_retrieval")
COLOURS = ("red", "green", "blue", "white", "black", "red", "green")


@pytest.fixture
def write(tmp_path, write_tar, picture):
    """A shard of seven samples in which those of some numbers are changed."""

    def made(changes, name="a.tar"):
        samples = [{"png": picture(c), "cls": c.encode(), "txt": f"so {c}".encode()} for c in COLOURS]
        for number, change in changes.items():
            samples[number] = {name: data for name, data in (samples[number] | change).items() if data is not None}
        write_tar(tmp_path / name, samples)
        return tmp_path / name

    return made


def settings_of(path, **changes):
    common = {"name": "set", "tasks": BOTH, "templates": "none", "class_names": COLOURS[:5]}
    return EvalDatasetConfig(path=str(path), **common | changes)


def results_of(model, settings):
    return list(evaluate(model, [settings], IDENTITY, chunk_size=4))


FAULTS = {
    "no picture": ({"png": None}, "has no picture: members cls, txt"),
    "a picture that is none": ({"png": b"\x89PNG of nothing"}, "cannot be decoded"),
    "no class": ({"cls": None}, "no label at cls"),
    "no caption": ({"txt": b"  "}, "has no caption at txt"),
    "captions that are no text": ({"txt": b"\xff\xfe"}, r"member \.txt: not readable"),
}


@pytest.mark.parametrize(("change", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_bad_sample_is_an_error_that_names_it_and_the_way_out(write, colour_model, change, reason):
    with pytest.raises(UserError, match=rf"sample set/a\.tar/s0000003\W+{reason}"):
        results_of(colour_model, settings_of(write({3: change})))


@pytest.mark.parametrize(("change", "reason"), FAULTS.values(), ids=FAULTS)
def test_it_is_left_out_of_every_task_where_that_is_allowed(write, colour_model, change, reason):
    allowed = {"on_bad": "skip", "num_samples": 7}
    found = results_of(colour_model, settings_of(write({3: change}), **allowed))
    whole = results_of(colour_model, settings_of(write({}, "whole.tar"), **allowed))
    for result, other in zip(found, whole, strict=True):
        assert (result.num_samples, result.num_skipped, result.num_expected) == (6, 1, 7)
        assert (other.num_samples, other.num_skipped, other.num_expected) == (7, 0, 7)
        assert result.notes[0] == "samples that cannot be used and were left out: 1 of 7"
        assert result.notes[1].startswith("set/a.tar/s0000003")
        assert result.dataset_fingerprint != other.dataset_fingerprint
    labels = [row[:2] for row in found[0].tables["per_class"].rows]
    assert labels == [("red", 2), ("green", 2), ("blue", 1), ("white", 0), ("black", 1)]
    assert found[1].details["num_captions"] == 6
    assert found[0].metrics["acc1"].value == 1.0


def test_the_figures_are_those_of_a_set_without_the_bad_samples(write, write_tar, picture, tmp_path, colour_model):
    broken = write({1: {"png": b"none"}, 4: {"cls": None}, 6: {"txt": None, "png": b""}})
    samples = [{"png": picture(c), "cls": c.encode(), "txt": f"so {c}".encode()} for c in COLOURS]
    write_tar(tmp_path / "rest.tar", [samples[i] for i in (0, 2, 3, 5)])
    found = results_of(colour_model, settings_of(broken, on_bad="skip"))
    rest = results_of(colour_model, settings_of(tmp_path / "rest.tar"))
    assert [result.metrics for result in found] == [result.metrics for result in rest]
    assert [result.tables for result in found] == [result.tables for result in rest]


def test_counts_and_names_stand_in_the_file(write, colour_model, tmp_path):
    (result, _) = results_of(colour_model, settings_of(write({0: {"png": b"none"}}), on_bad="skip"))
    content = json.loads(result.write(tmp_path / "results").read_text())
    assert (content["n_seen"], content["n_skipped"], content["n_expected"]) == (6, 1, 7)
    assert any("s0000000 cannot be decoded" in note for note in content["notes"])


@pytest.mark.parametrize("kind", ["no picture", "a picture that is none", "no caption"])
def test_one_more_than_may_be_ends_the_evaluation(write, colour_model, kind):
    path = write(dict.fromkeys((1, 2, 5), FAULTS[kind][0]))
    assert results_of(colour_model, settings_of(path, on_bad="skip", max_bad=3))[0].num_skipped == 3
    with pytest.raises(
        UserError, match=r"3 of 7 samples cannot be used, max_bad=2 may be left out; .*set/a\.tar/s0000001"
    ):
        results_of(colour_model, settings_of(path, on_bad="skip", max_bad=2))


def test_a_set_of_which_nothing_is_left_is_an_error(write, colour_model):
    for change in ({"png": b"none"}, {"cls": None}):
        path = write(dict.fromkeys(range(7), change))
        with pytest.raises(
            UserError, match=r"no sample has a label|7 of 7 samples cannot|no other picture can be read"
        ):
            results_of(colour_model, settings_of(path, on_bad="skip"))


def test_the_first_twenty_are_named_and_all_are_counted(tmp_path, write_tar, picture):
    write_tar(tmp_path / "a.tar", [{"txt": b"a"}] * 30 + [{"png": picture("red"), "txt": b"red"}])
    settings = EvalDatasetConfig(name="set", path=str(tmp_path / "a.tar"), on_bad="skip", max_bad=30)
    dataset = open_dataset(settings).dataset
    assert dataset.notes[0] == "samples that cannot be used and were left out: 30 of 31"
    assert len(dataset.notes) == 22
    assert dataset.notes[-1] == "and 10 more were left out"


def test_a_sample_of_several_pictures_goes_with_any_of_them(tmp_path, write_tar, picture, colour_model):
    pair = {"0.png": picture("red"), "1.png": picture("blue"), "txt": b"red\nblue"}
    write_tar(tmp_path / "a.tar", [pair, pair | {"1.png": b"none"}, pair])
    settings = {"name": "set", "path": str(tmp_path / "a.tar"), "pictures": ("0.png", "1.png"), "on_bad": "skip"}
    dataset = open_dataset(EvalDatasetConfig(**settings)).dataset
    bad = {}
    encode_images(dataset.rows, colour_model.spec.to_uint8, colour_model.embed_uint8, bad=bad)
    assert dataset.leave_out_rows(bad).tolist() == [0, 1, 4, 5]
    assert dataset.rows.sample_of_row.tolist() == [0, 0, 1, 1]


def test_a_second_checkpoint_sees_the_rows_that_the_first_saw(write, colour_model):
    """A set is opened once for all checkpoints; which rows share a chunk, and so the last digits, must not depend on it."""
    path = write({1: {"png": b"none"}, 4: {"cls": None}})
    opened = open_dataset(settings_of(path, on_bad="skip"))
    found = []
    for _ in range(2):
        encoder = Encoder(Towers(colour_model, chunk_size=4))
        found.append(list(evaluate_opened(encoder, [opened], IDENTITY)))
        assert [row for row, _ in sorted(encoder.images(opened.dataset.encoded_rows, {}).bad.items())] == [1]
    first, second = ([(one.metrics, one.file_name, one.notes, one.num_skipped) for one in results] for results in found)
    for one, other in zip(first, second, strict=True):
        assert one == other
    assert colour_model.image_rows[:2] == colour_model.image_rows[2:4] == [4, 4]
    assert first[0][3] == 2


def test_another_process_finds_the_rows_that_are_encoded(write, colour_model):
    dataset = open_dataset(settings_of(write({1: {"png": b"none"}, 4: {"cls": None}}), on_bad="skip")).dataset
    before = open_place(place_of(dataset))
    list(evaluate_opened(Encoder(Towers(colour_model, chunk_size=4)), [OpenedDataset(dataset, ())], IDENTITY))
    dataset.leave_out_rows({1: "cannot be decoded"})
    for rows in (before, open_place(place_of(dataset))):
        assert rows.fingerprint == dataset.encoded_rows.fingerprint
        assert [rows.sample_id(i) for i in range(len(rows))] == [f"set/a.tar/s000000{n}" for n in (0, 1, 2, 3, 5, 6)]


def test_a_result_file_has_one_name_before_and_after_a_picture_proves_bad(write, colour_model):
    settings = settings_of(write({3: {"png": b"none"}}), on_bad="skip")
    names = [result.file_name for result in results_of(colour_model, settings)]
    colour_model.image_rows.clear()
    asked = []
    done = list(
        evaluate(colour_model, [settings], IDENTITY, chunk_size=4, is_there=lambda name: not asked.append(name))
    )
    assert (asked, done, colour_model.image_rows) == (names, [], [])


def test_vectors_of_classes_and_instances_may_be_bad_too(tmp_path, write_tar, picture):
    vectors = [b"none" if i == 2 else vector(i % 2, 1) for i in range(4)]
    write_tar(tmp_path / "m" / "test" / "0.tar", [{"png": picture("red"), "npy": data} for data in vectors])
    (tmp_path / "m" / "test" / "nshards.txt").write_text("1")
    (tmp_path / "m" / "dataset_type.txt").write_text("multilabel")
    (tmp_path / "m" / "classnames.txt").write_text("red\nblue\n")
    settings = {"name": "set", "on_bad": "skip", "templates": "none"}
    dataset = open_dataset(EvalDatasetConfig(path=str(tmp_path / "m"), **settings)).dataset
    assert dataset.multilabelled.positive.tolist() == [[False, True], [True, True], [True, True]]
    assert len(dataset.skipped) == 1

    cases = [{"image_0": "a", "image_1": name, "caption_0": "x", "caption_1": "y"} for name in ("a", "nowhere", "a")]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture("red"))
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    dataset = open_dataset(EvalDatasetConfig(path=str(tmp_path / "cases.jsonl"), **settings)).dataset
    assert (len(dataset.rows), len(dataset.choices.texts), len(dataset.skipped)) == (4, 4, 1)


def vector(*values):
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def test_a_label_that_is_no_class_names_its_own_sample_beside_bad_ones(write, colour_model):
    settings = settings_of(write({0: {"cls": None}, 4: {"cls": b"pink"}}), on_bad="skip")
    with pytest.raises(UserError, match=r"sample set/a\.tar/s0000004: label 'pink' is none of the 5 classes"):
        results_of(colour_model, settings)


def test_the_training_split_has_a_number_of_samples_of_its_own(tmp_path, write_tar, picture, colour_model):
    for split, times in (("test", 1), ("train", 3)):
        for number, colour in enumerate(COLOURS[:5] * times):
            path = tmp_path / split / colour / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(colour))
    settings = settings_of(tmp_path, tasks=("knn",), class_names=None, num_samples=5)
    (result,) = results_of(colour_model, settings)
    assert (result.metrics["knn_acc1"].value, result.num_expected) == (1.0, 5)


class Source:
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def sample_id(self, index):
        return f"set/{index}"

    def image_bytes(self, index):
        if self.pictures[index] is None:
            raise BadSampleError("gone")
        return self.pictures[index]


def test_other_rows_are_the_same_bits_beside_a_bad_one(picture):
    torch.manual_seed(0)
    tower = torch.nn.Linear(3 * 64, 16)

    def embed(images):
        return tower(images.float().flatten(1))

    from mmclip.preprocess import ImageSpec

    to_uint8 = ImageSpec(size=(8, 8)).to_uint8
    sound = [picture(c) for c in COLOURS]
    whole = encode_images(Source(sound), to_uint8, embed, chunk_size=4)
    bad: dict[int, str] = {}
    broken = [*sound[:2], None, b"none", *sound[4:]]
    found = encode_images(Source(broken), to_uint8, embed, chunk_size=4, bad=bad)
    assert sorted(bad) == [2, 3]
    assert bad[2] == "cannot be read: gone"
    assert found[2:4].eq(0).all()
    kept = [0, 1, 4, 5, 6]
    assert found[kept].equal(whole[kept])
    bad.clear()
    chunk_lost = encode_images(Source([None] * 4 + sound[4:]), to_uint8, embed, chunk_size=4, bad=bad)
    assert chunk_lost[4:].equal(whole[4:])
    assert sorted(bad) == [0, 1, 2, 3]
