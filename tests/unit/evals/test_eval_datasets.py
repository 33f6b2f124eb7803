import json

import pytest

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig, open_dataset


def opened(path, **settings):
    return open_dataset(EvalDatasetConfig(name="set", path=str(path), **settings)).dataset


def tasks_of(path, **settings):
    return [task.type for task in open_dataset(EvalDatasetConfig(name="set", path=str(path), **settings)).tasks]


def test_a_clip_benchmark_folder_declares_its_task_labels_names_and_templates(classification_folder):
    dataset = opened(classification_folder)
    assert tasks_of(classification_folder) == ["zero_shot_classification"]
    assert dataset.labelled.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.labelled.class_names == ("red", "green", "blue")
    assert dataset.prompts[0] == ["a red thing", "something red"]
    assert [dataset.samples.sample_id(i) for i in (0, 4)] == ["set/0.tar/s0000000", "set/1.tar/s0000000"]
    assert dataset.notes == ()


def test_a_folder_of_unindexed_tars_is_read_without_writing_to_it(classification_folder):
    before = sorted(classification_folder.rglob("*"))
    assert opened(classification_folder).samples.image_bytes(5).startswith(b"\x89PNG")
    assert sorted(classification_folder.rglob("*")) == before


def test_a_folder_of_type_retrieval_has_one_caption_a_line(retrieval_folder):
    dataset = opened(retrieval_folder)
    assert tasks_of(retrieval_folder) == ["zero_shot_retrieval"]
    assert dataset.captioned.captions == ("a red thing", "really red", "so green", "deep blue", "rather red")
    assert dataset.captioned.image_of_caption.tolist() == [0, 0, 1, 2, 3]


def test_the_fingerprint_follows_the_bytes_and_not_the_folder(classification_folder, tmp_path, write_tar, picture):
    first = opened(classification_folder).samples.fingerprint
    moved = classification_folder.rename(tmp_path / "elsewhere")
    assert opened(moved).samples.fingerprint == first
    write_tar(moved / "test" / "1.tar", [{"cls": b"1", "png": picture("blue")}, {"cls": b"2", "png": picture("green")}])
    assert opened(moved).samples.fingerprint != first


def test_blank_lines_at_the_end_make_no_class_and_are_noted(classification_folder):
    (classification_folder / "classnames.txt").write_text("red\ngreen\nblue\n\n \n")
    dataset = opened(classification_folder)
    assert dataset.labelled.class_names == ("red", "green", "blue")
    assert dataset.notes == ("classnames.txt: blank lines left out at the end: 2",)


def test_a_blank_line_between_class_names_is_refused(classification_folder):
    (classification_folder / "classnames.txt").write_text("red\n\ngreen\nblue\n")
    with pytest.raises(UserError, match=r"classnames\.txt, line 2: blank line"):
        opened(classification_folder)


@pytest.mark.parametrize(
    ("nshards", "message"),
    [
        (None, r"nshards\.txt is missing"),
        ("1", r"says 1.*not expected \['1\.tar'\]"),
        ("3", r"says 3.*missing \['2\.tar'\]"),
        ("two", "expected one positive integer, got 'two'"),
    ],
)
def test_shards_that_contradict_their_declared_number_are_refused(classification_folder, nshards, message):
    path = classification_folder / "test" / "nshards.txt"
    path.unlink()
    if nshards is not None:
        path.write_text(nshards)
    with pytest.raises(UserError, match=message):
        opened(classification_folder)


def test_a_missing_split_names_those_that_exist(classification_folder):
    with pytest.raises(UserError, match="no split 'val': expected one of its folders .--split.: test"):
        opened(classification_folder, split="val")


def test_a_label_beyond_the_class_names_names_its_sample(classification_folder):
    (classification_folder / "classnames.txt").write_text("red\ngreen\n")
    with pytest.raises(
        UserError, match=r"sample set/0\.tar/s0000002: label 2 is none of the 2 classes .* expected 0 to 1"
    ):
        opened(classification_folder)


@pytest.mark.parametrize("label", ["-1", "2.0"])
def test_a_number_that_is_no_index_is_told_what_indices_there_are(tmp_path, write_tar, picture, label):
    write_tar(tmp_path / "a.tar", [{"cls": label.encode(), "png": picture("red")}])
    with pytest.raises(UserError, match=rf"label '{label}' is none of .*: expected a whole number, 0 to 1, or a name"):
        opened(tmp_path / "a.tar", class_names=("red", "blue"), templates="none")


def test_one_class_alone_is_refused_with_where_it_stands(tmp_path, write_tar, picture):
    write_tar(tmp_path / "a.tar", [{"cls": b"red", "png": picture("red")}])
    with pytest.raises(UserError, match=r"class names from labels at cls: expected at least 2 .*set class_names"):
        opened(tmp_path / "a.tar", templates="none")


def test_names_in_another_encoding_say_how_to_save_them(classification_folder):
    (classification_folder / "classnames.txt").write_bytes("grün\nred\nblue\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classnames\.txt cannot be read as UTF-8 .*: save the file as UTF-8"):
        opened(classification_folder)


def test_a_set_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"name=' ' of the set at data: expected a name"):
        EvalDatasetConfig(name=" ", path="data")


def test_missing_templates_are_an_error_and_not_a_default(classification_folder):
    (classification_folder / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(UserError, match="no templates; set templates to a packaged set"):
        opened(classification_folder)
    assert opened(classification_folder, templates="simple").prompts[0] == ["a photo of a red."]


def test_a_type_that_is_not_supported_is_named(classification_folder):
    (classification_folder / "dataset_type.txt").write_text("captioning")
    with pytest.raises(UserError, match="'captioning' is not supported"):
        opened(classification_folder)


def test_a_member_that_changed_after_indexing_names_its_sample(classification_folder):
    dataset = opened(classification_folder)
    shard = classification_folder / "test" / "0.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x00PNG", 1))
    with pytest.raises(ValueError, match=r"s0000000.*checksum"):
        dataset.samples.image_bytes(0)


@pytest.fixture
def plain_shards(tmp_path, write_tar, picture):
    """Two shards whose class and captions stand in JSON, beside a text of two lines."""
    folder = tmp_path / "plain"
    for shard, colours in enumerate((("red", "blue"), ("red", "green"))):
        samples = [
            {
                "png": picture(colour),
                "txt": f"{colour}\nall of it\n".encode(),
                "json": json.dumps({"info": {"name": colour}, "captions": [f"so {colour}", " "]}).encode(),
            }
            for colour in colours
        ]
        write_tar(folder / f"train-{shard:06d}.tar", samples)
    return folder


def test_plain_shards_take_class_names_from_their_labels(plain_shards):
    settings = {"label": "json:info.name", "templates": "none"}
    dataset = opened(plain_shards / "train-{000000..000001}.tar", **settings)
    assert tasks_of(plain_shards, **settings) == ["zero_shot_classification"]
    assert dataset.labelled.class_names == ("blue", "green", "red")
    assert dataset.labelled.labels.tolist() == [2, 0, 2, 1]


def test_plain_shards_with_captions_alone_are_for_retrieval_and_a_text_is_one_caption(plain_shards):
    dataset = opened(plain_shards)
    assert tasks_of(plain_shards) == ["zero_shot_retrieval"]
    assert dataset.captioned.captions[:2] == ("red\nall of it", "blue\nall of it")
    assert dataset.notes == ("1 of 4 captions repeat an earlier one; a tie is never a hit",)


def test_captions_come_from_all_named_places_and_blank_ones_are_counted(plain_shards):
    dataset = opened(plain_shards, captions=("txt:lines", "json:captions"))
    assert dataset.captioned.captions[:3] == ("red", "all of it", "so red")
    assert dataset.captioned.image_of_caption.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert dataset.notes[0] == "blank captions left out: 4"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"label": "json:colour", "templates": "none"},
            r"sample set/train-000000\.tar/s0000000: no label at json:colour",
        ),
        (
            {"captions": ("json:texts",)},
            r"sample set/train-000000\.tar/s0000000 has no caption at json:texts: .*set captions to",
        ),
        (
            {"captions": ("caption",)},
            r"no label \(cls\) and no captions \(caption\); members there: \.json, \.png, \.txt",
        ),
        ({"captions": ("json:info",)}, r"json:info: expected a string or a list of strings"),
        ({"captions": ("txt:name",)}, r"set\.captions: 'txt:name' is no place in a sample"),
        ({"label": "json:info.name", "class_names": ("red", "blue", "greens"), "templates": "none"}, "one like greens"),
    ],
)
def test_what_is_declared_but_not_there_is_named(plain_shards, settings, message):
    with pytest.raises(UserError, match=message):
        opened(plain_shards, **settings)


def test_a_sample_without_a_picture_is_named(tmp_path, write_tar, picture):
    write_tar(tmp_path / "a.tar", [{"png": picture("red"), "txt": b"red"}, {"txt": b"blue"}])
    with pytest.raises(UserError, match=r"sample set/a\.tar/s0000001 has no picture: members txt"):
        opened(tmp_path / "a.tar")


def test_one_set_can_serve_both_tasks(plain_shards):
    tasks = ("zero_shot_classification", "zero_shot_retrieval")
    settings = {"tasks": tasks, "label": "json:info.name", "templates": "none"}
    assert tasks_of(plain_shards, **settings) == list(tasks)
    dataset = opened(plain_shards, **settings)
    assert len(dataset.labelled.labels) == len(dataset.captioned.captions) == 4


def test_samples_of_several_pictures_give_a_row_for_each_that_is_there(tmp_path, write_tar, picture):
    two = {"0.png": picture("red"), "1.png": picture("blue"), "txt": b"a\nb"}
    write_tar(tmp_path / "a.tar", [two, two, {"0.png": picture("green"), "txt": b"c"}])
    rows = opened(tmp_path / "a.tar", pictures=("0.png", "1.png"), captions=("txt:lines",)).rows
    assert rows.sample_of_row.tolist() == [0, 0, 1, 1, 2]
    assert [rows.image_bytes(row) for row in (0, 1, 4)] == [picture("red"), picture("blue"), picture("green")]
    assert [rows.sample_id(row) for row in (3, 4)] == ["set/a.tar/s0000001 .1.png", "set/a.tar/s0000002 .0.png"]
    with pytest.raises(UserError, match=r"s0000002 has no picture: members 0\.png, txt; expected one of 1\.png"):
        opened(tmp_path / "a.tar", pictures=("1.png",))
