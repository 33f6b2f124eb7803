"""Data sets of Hugging Face's library: as saved, as Parquet, in folders, in tars; none is fetched."""

import json
import shutil

import datasets
import numpy as np
import pytest

from mmclip.errors import BadSampleError, MachineError, UserError

COLOURS = ("red", "green", "blue")
CLASSES = ["cold", "warm"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets-cache"))


def rows_of(picture, captions=None, broken=()):
    rows = {
        "image": [None if i in broken else {"bytes": picture(c), "path": None} for i, c in enumerate(COLOURS)],
        "caption": captions or [[f"so {c}", f"a {c} thing"] for c in COLOURS],
        "label": [1, 0, 0],
        "tags": [[0], [0, 1], []],
        "source": [{"year": 1990 + i} for i in range(3)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=CLASSES),
            "tags": datasets.List(datasets.ClassLabel(names=["still", "moving"])),
            "source": {"year": datasets.Value("int32")},
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def save(rows, folder, form):
    if form == "file.parquet":
        rows.to_parquet(str(folder / form))
    elif form == "parquet":
        (folder / form / "data").mkdir(parents=True)
        rows.to_parquet(str(folder / form / "data" / "test-00000-of-00001.parquet"))
    elif form == "saved":
        rows.save_to_disk(str(folder / form))
    else:
        datasets.DatasetDict({"train": rows.select([0]), "test": rows}).save_to_disk(str(folder / form))
    return folder / form


@pytest.mark.parametrize("form", ["file.parquet", "parquet", "saved", "splits"])
def test_rows_are_the_same_however_they_are_kept(tmp_path, picture, opened, form):
    path = save(rows_of(picture), tmp_path, form)
    dataset = opened(path, templates="none", group="json:source.year")
    assert [dataset.samples.image_bytes(i) for i in range(3)] == [picture(c) for c in COLOURS]
    assert (dataset.labelled.class_names, dataset.labelled.labels.tolist()) == (("cold", "warm"), [1, 0, 0])
    assert dataset.captioned.captions == tuple(
        f"{how} {c}{what}" for c in COLOURS for how, what in (("so", ""), ("a", " thing"))
    )
    assert dataset.groups.names == ("1990", "1991", "1992")
    assert dataset.samples.sample_id(2) == "set/test/000000002"
    assert dataset.samples.members(0, ("txt", "cls")) == {"txt": b"so red\na red thing", "cls": b"1"}
    facts = json.loads(dataset.samples.members(1, ("json",))["json"])
    assert (facts["label"], facts["tags"]) == ("cold", ["still", "moving"])


def test_the_prefix_names_a_folder_too(tmp_path, picture, opened):
    path = save(rows_of(picture), tmp_path, "parquet")
    assert len(opened(f"hf:{path}", templates="none").samples) == 3


def test_a_split_that_is_not_there_names_those_that_are(tmp_path, picture, opened):
    path = save(rows_of(picture), tmp_path, "splits")
    assert len(opened(path, split="train", templates="none").samples) == 1
    with pytest.raises(UserError, match=r"no split 'val'; it has 'train', 'test': set the split"):
        opened(path, split="val")


def test_a_configuration_is_chosen_by_its_name(tmp_path, picture, opened):
    for subset, count in (("small", 1), ("whole", 3)):
        (tmp_path / "set" / subset).mkdir(parents=True)
        rows_of(picture).select(range(count)).to_parquet(str(tmp_path / "set" / subset / "test.parquet"))
    head = "---\nconfigs:\n"
    for subset in ("small", "whole"):
        head += f"- config_name: {subset}\n  data_files:\n  - split: test\n    path: {subset}/test.parquet\n"
    (tmp_path / "set" / "README.md").write_text(head + "---\n")
    found = {
        subset: len(opened(f"hf:{tmp_path / 'set'}", subset=subset, templates="none").samples)
        for subset in ("small", "whole")
    }
    assert found == {"small": 1, "whole": 3}
    with pytest.raises(UserError, match="Config name is missing"):
        opened(f"hf:{tmp_path / 'set'}")


def test_a_folder_with_metadata_has_its_captions_from_there(tmp_path, picture, opened):
    (tmp_path / "set" / "test").mkdir(parents=True)
    for colour in COLOURS:
        (tmp_path / "set/test" / f"{colour}.png").write_bytes(picture(colour))
    lines = [json.dumps({"file_name": f"{c}.png", "text": f"so {c}"}) for c in COLOURS]
    (tmp_path / "set/test/metadata.jsonl").write_text("\n".join(lines))
    dataset = opened(tmp_path / "set")
    assert set(dataset.captioned.captions) == {"so red", "so green", "so blue"}
    pairs = {dataset.captioned.captions[i]: dataset.samples.image_bytes(i) for i in range(3)}
    assert pairs == {f"so {c}": picture(c) for c in COLOURS}


def test_classes_in_folders_are_read_by_the_library_too(tmp_path, picture, opened):
    for name, colour in {"test/cat/1.png": "red", "test/dog/2.png": "blue"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_bytes(picture(colour))
    by_library, by_us = (opened(path, templates="none") for path in (f"hf:{tmp_path / 'set'}", tmp_path / "set"))
    assert by_library.labelled.class_names == by_us.labelled.class_names == ("cat", "dog")
    assert [by_library.samples.image_bytes(i) for i in (0, 1)] == [by_us.samples.image_bytes(i) for i in (0, 1)]


def test_tars_are_read_by_the_library_too(tmp_path, write_tar, picture, opened):
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([4, 7]))
    samples = [
        {
            "png": picture(c),
            "cls": b"%d" % (i % 2),
            "txt": f"so {c}".encode(),
            "json": b'{"kind": "sky"}',
            "npy": buffer.getvalue(),
        }
        for i, c in enumerate(COLOURS)
    ]
    write_tar(tmp_path / "set" / "test" / "0.tar", samples)
    (tmp_path / "set" / "test" / "nshards.txt").write_text("1")
    settings = {"class_names": ("a", "b"), "templates": "none"}
    dataset = opened(f"hf:{tmp_path / 'set'}", group="npy:1", **settings)
    assert dataset.labelled.labels.tolist() == [0, 1, 0]
    assert dataset.groups.names == ("7",)
    assert dataset.captioned.captions == ("so red", "so green", "so blue")
    assert opened(f"hf:{tmp_path / 'set'}", group="json:kind", **settings).groups.names == ("sky",)
    assert [dataset.samples.image_bytes(i) for i in range(3)] == [picture(c) for c in COLOURS]


def test_two_pictures_a_row_are_a_selection(tmp_path, picture, indexed):
    columns = {f"image_{i}": [{"bytes": picture(c), "path": None}] for i, c in enumerate(("red", "blue"))}
    rows = {**columns, "caption_0": ["red"], "caption_1": ["blue"], "tag": ["Object"]}
    features = datasets.Features(
        {name: datasets.Image() if name.startswith("image") else datasets.Value("string") for name in rows}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "winoground"))
    dataset = indexed(tmp_path / "winoground")
    assert dataset.declared.dataset_type == "image_caption_selection"
    assert [dataset.rows.image_bytes(i) for i in range(2)] == [picture("red"), picture("blue")]
    assert dataset.captioned.captions == ("red", "blue")


def test_names_of_several_labels_a_row_are_the_class_names(tmp_path, picture, indexed):
    rows_of(picture).remove_columns("label").save_to_disk(str(tmp_path / "set"))
    assert indexed(tmp_path / "set").declared.class_names.lines == ("still", "moving")


def test_a_row_without_a_picture_is_named_or_left_out(tmp_path, picture, colour_model):
    from mmclip_eval.datasets import EvalDatasetConfig
    from mmclip_eval.results.result import ModelIdentity
    from mmclip_eval.suite import evaluate

    path = save(rows_of(picture, broken=(1,)), tmp_path, "saved")
    settings = {"name": "set", "path": str(path), "class_names": tuple(CLASSES), "templates": "none"}
    identity = ModelIdentity(model="colours", precision="fp32")
    with pytest.raises(UserError, match="sample set/test/000000001 cannot be read: no picture in column 'image'"):
        list(evaluate(colour_model, [EvalDatasetConfig(**settings)], identity))
    (result,) = evaluate(colour_model, [EvalDatasetConfig(**settings, on_bad="skip")], identity)
    assert (result.num_samples, result.num_skipped) == (2, 1)


def test_the_fingerprint_follows_every_byte(tmp_path, picture, indexed):
    first = indexed(save(rows_of(picture), tmp_path, "saved")).samples.fingerprint
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    assert indexed(tmp_path / "moved").samples.fingerprint == first
    assert indexed(save(rows_of(picture), tmp_path, "file.parquet")).samples.fingerprint == first
    other = rows_of(picture, captions=[["so red", "a red thing"], ["so green", "a green thing"], ["so blue", "other"]])
    assert indexed(save(other, tmp_path, "saved")).samples.fingerprint != first
    swapped = rows_of(lambda colour: picture({"red": "blue", "blue": "red"}.get(colour, colour)))
    shutil.rmtree(tmp_path / "saved")
    assert indexed(save(swapped, tmp_path, "saved")).samples.fingerprint != first


def test_a_picture_that_changed_since_is_not_encoded(tmp_path, picture, indexed):
    (tmp_path / "set/test").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / f"set/test/{name}.png").write_bytes(picture("red"))
    (tmp_path / "set/test/metadata.csv").write_text("file_name,text\na.png,so red\nb.png,red\n")
    samples = indexed(tmp_path / "set").samples
    assert samples.fingerprint
    (tmp_path / "set/test/a.png").write_bytes(picture("green"))
    with pytest.raises(BadSampleError, match="its bytes are others than when the set was opened"):
        samples.image_bytes(0)


def test_a_name_that_must_be_fetched_says_so_without_a_network(opened):
    with pytest.raises(MachineError, match="nobody/nothing: not on this machine, and the Hub cannot be reached"):
        opened("hf:nobody/nothing")


def test_a_script_beside_the_data_is_not_run(tmp_path, opened):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot open it"):
        opened(f"hf:{tmp_path / 'set'}")
    assert not (tmp_path / "ran").exists()
