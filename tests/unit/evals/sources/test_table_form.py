"""Tables of paths, as open_clip and others write them, and CoOp's splits."""

import csv
import json
import shutil

import pyarrow
import pyarrow.parquet as parquet
import pytest

from mmclip.errors import UserError


@pytest.fixture
def root(tmp_path, picture):
    (tmp_path / "data/images").mkdir(parents=True)
    for colour in ("red", "green", "blue"):
        (tmp_path / f"data/images/{colour}.png").write_bytes(picture(colour))
    return tmp_path / "data"


ROWS = [
    {"filepath": "images/red.png", "title": "a red, thing", "label": "warm", "year": "1999"},
    {"filepath": "images/blue.png", "title": 'so "blue"', "label": "cold", "year": "2001"},
]


def write_csv(path, rows, separator):
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {
    "rows.csv": lambda path, rows: write_csv(path, rows, "\t"),  # open_clip's default, whatever the ending
    "comma.csv": lambda path, rows: write_csv(path, rows, ","),
    "rows.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "rows.jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "rows.parquet": lambda path, rows: parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table_gives_captions_labels_and_facts(root, picture, opened, name):
    WRITERS[name](root / name, ROWS)
    dataset = opened(root / name, tasks=("zero_shot_retrieval",), group="json:year")
    assert dataset.captioned.captions == ("a red, thing", 'so "blue"')
    assert dataset.groups.names == ("1999", "2001")
    assert [dataset.samples.image_bytes(i) for i in range(2)] == [picture("red"), picture("blue")]
    dataset.read(("labelled",))
    assert (dataset.labelled.class_names, dataset.labelled.labels.tolist()) == (("cold", "warm"), [1, 0])
    texts = dataset.samples.members(1, ("txt", "cls"))
    assert texts == {"txt": b'so "blue"', "cls": b"cold"}
    assert dataset.samples.sample_id(0).startswith(f"set/{name}:")


def test_the_task_is_what_the_columns_allow(root, opened):
    for rows, part in ((ROWS, "labelled"), ([{"filepath": "images/red.png", "title": "red"}], "captioned")):
        write_csv(root / "rows.csv", rows, ",")
        assert part in opened(root / "rows.csv", templates="none")._parts


def test_rows_of_one_picture_are_one_sample_with_all_captions(root, opened):
    rows = [
        {"image_name": name, "comment_number": str(number), "comment": f"{name} {number}"}
        for name in ("images/red.png", "images/green.png")
        for number in range(3)
    ]
    rows.append({"image_name": "images/red.png", "comment_number": "3", "comment": "red again"})
    write_csv(root / "results.csv", rows, "|")  # Flickr30k's
    dataset = opened(root / "results.csv")
    assert len(dataset.samples) == 2
    assert dataset.captioned.image_of_caption.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.captioned.captions[3] == "red again"
    assert dataset.notes == ("rows of one picture are one sample: 2 samples in 7 rows",)


def test_rows_of_one_picture_and_two_classes_are_two_samples(root, opened):
    rows = [ROWS[0], ROWS[1], ROWS[0] | {"title": "again"}, ROWS[0] | {"label": "cold"}]
    write_csv(root / "rows.csv", rows, ",")
    dataset = opened(root / "rows.csv", tasks=("zero_shot_classification", "zero_shot_retrieval"), templates="none")
    assert dataset.labelled.labels.tolist() == [1, 0, 0]
    assert dataset.captioned.image_of_caption.tolist() == [0, 0, 1, 2]


def test_numbered_columns_are_captions_each(root, opened):
    write_csv(root / "rows.csv", [{"image": "images/red.png", "caption_0": "one", "caption_1": "two"}], ",")
    assert opened(root / "rows.csv").captioned.captions == ("one", "two")


def test_numbered_pictures_are_pictures_of_one_sample(root, picture, indexed):
    row = {"image_0": "images/red", "image_1": "images/blue", "caption_0": "red", "caption_1": "blue"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), root / "pairs.parquet")
    dataset = indexed(root / "pairs.parquet")
    assert dataset.declared.dataset_type == "image_caption_selection"
    assert [dataset.rows.image_bytes(i) for i in range(2)] == [picture("red"), picture("blue")]
    assert dataset.captioned.captions == ("red", "blue")


def test_paths_may_begin_elsewhere(root, tmp_path, picture, opened):
    write_csv(tmp_path / "rows.csv", ROWS, ",")
    with pytest.raises(
        UserError, match=r"rows\.csv:2 has no picture: .*images/red\.png is no file; .*set image_folder"
    ):
        opened(tmp_path / "rows.csv", image_folder=str(tmp_path), templates="none")
    for folder in (str(root), None):  # named, or the one folder beside the table that has the first picture
        dataset = opened(tmp_path / "rows.csv", image_folder=folder, templates="none")
        assert dataset.samples.image_bytes(1) == picture("blue")
        assert any("begin in" in note for note in dataset.notes) == (folder is None)


BAD_ROWS = {
    "a missing file": ("images/nowhere.png,nothing,warm", "is no file"),
    "a URL": ("https://example.org/a.png,nothing,warm", "is a URL; download it first"),
    "an empty cell": (",nothing,warm", "its cell is empty"),
    "too few cells": ("images/red.png", "row has another number of fields"),
    "text that is not UTF-8": (b"images/green.png,nothing,\xff", "not readable"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_by_its_line_and_may_be_left_out(root, opened, row, reason):
    lines = ["filepath,title,label", "images/red.png,red,warm", row, "images/blue.png,blue,cold"]
    content = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    (root / "rows.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"sample set/rows\.csv:3\W.*{reason}"):
        opened(root / "rows.csv", templates="none")
    dataset = opened(root / "rows.csv", templates="none", on_bad="skip", num_samples=3)
    assert (len(dataset.samples), len(dataset.skipped)) == (2, 1)
    assert dataset.labelled.labels.tolist() == [1, 0]


def test_the_fingerprint_follows_pictures_and_texts(root, tmp_path, picture, indexed):
    write_csv(root / "rows.csv", ROWS, ",")
    first = indexed(root / "rows.csv").samples.fingerprint
    moved = shutil.copytree(root, tmp_path / "moved")
    assert indexed(moved / "rows.csv").samples.fingerprint == first
    write_csv(moved / "rows.csv", [ROWS[0], ROWS[1] | {"title": "other"}], ",")
    assert indexed(moved / "rows.csv").samples.fingerprint != first
    write_csv(moved / "rows.csv", ROWS, ",")
    (moved / "images/blue.png").write_bytes(picture("green"))
    assert indexed(moved / "rows.csv").samples.fingerprint != first


def test_a_table_without_a_column_of_pictures_names_its_columns(root, opened):
    write_csv(root / "rows.csv", [{"id": "1", "title": "a"}], ",")
    with pytest.raises(UserError, match=r"rows\.csv: none of its columns 'id', 'title' has a name that says image"):
        opened(root / "rows.csv")
    write_csv(root / "rows.csv", [{"where": "images/red.png", "title": "a"}], ",")
    assert opened(root / "rows.csv", image_column="where").captioned.captions == ("a",)


SPLIT = {
    "train": [["green.png", 1, "leaf"], ["red.png", 0, "rose"]],
    "val": [],
    "test": [["blue.png", 2, "sky"], ["red.png", 0, "rose"]],
}


def test_a_split_of_coop_has_classes_by_number(root, picture, opened):
    (root / "split_zhou_Colours.json").write_text(json.dumps(SPLIT))
    dataset = opened(root / "split_zhou_Colours.json", templates="none")
    assert dataset.labelled.class_names == ("rose", "leaf", "sky"), "also of a class that only another split has"
    assert dataset.labelled.labels.tolist() == [2, 0]
    assert dataset.samples.image_bytes(0) == picture("blue")
    assert f"paths of pictures begin in {root / 'images'}" in dataset.notes
    train = opened(root / "split_zhou_Colours.json", split="train", templates="none")
    assert train.labelled.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": [["red.png", 0, "rose"], ["blue.png", 0, "sky"]]}, "label 0 is called 'rose' and 'sky'"),
        ({"test": [["red.png", "0", "rose"]]}, r"test, entry 0: expected \[path, label, class name\], got"),
        ({"train": [["green.png", 4, "leaf"]]}, "labels go up to 4, and none is 1"),
        ({"test": []}, r"no split 'test': expected one of .--split.: train, val"),
    ],
)
def test_a_split_of_coop_that_contradicts_itself_is_refused(root, opened, change, message):
    (root / "split.json").write_text(json.dumps(SPLIT | change))
    with pytest.raises(UserError, match=message):
        opened(root / "split.json", templates="none")
