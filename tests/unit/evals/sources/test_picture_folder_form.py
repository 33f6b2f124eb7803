"""Pictures in folders by class, as torchvision reads them, and folders with captions beside the pictures."""

import json
import shutil

import pytest
from torchvision.datasets import ImageFolder

from mmclip.errors import BadSampleError, UserError

FILES = {
    "cat/1.png": "red",
    "cat/deep/er/2.png": "green",
    "dog/10.png": "blue",
    "dog/9.PNG": "white",
    "10/1.png": "black",
    "2/1.png": "red",
}


def write(root, picture, files=FILES):
    for name, colour in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(colour))
    return root


def test_labels_are_those_of_torchvision(tmp_path, picture, opened):
    root = write(tmp_path / "set", picture)
    dataset, theirs = opened(root, templates="none"), ImageFolder(root)
    assert list(dataset.labelled.class_names) == theirs.classes == ["10", "2", "cat", "dog"]
    ours = {dataset.samples.sample_id(i): label for i, label in enumerate(dataset.labelled.labels.tolist())}
    assert ours == {f"set/{path.removeprefix(f'{root}/')}": label for path, label in theirs.samples}
    read = {dataset.samples.sample_id(i): dataset.samples.image_bytes(i) for i in range(len(dataset.samples))}
    assert read == {f"set/{name}": picture(colour) for name, colour in FILES.items()}


def test_the_split_is_a_folder_of_its_own_where_the_folders_are_splits(tmp_path, picture, opened):
    write(tmp_path / "train", picture)
    write(tmp_path / "val", picture, {"cat/3.png": "red", "dog/3.png": "blue"})
    dataset = opened(tmp_path, split="val", templates="none")
    assert [dataset.samples.sample_id(i) for i in range(2)] == ["set/cat/3.png", "set/dog/3.png"]
    with pytest.raises(UserError, match=r"no split 'test': expected one of its folders .--split.: train, val"):
        opened(tmp_path, templates="none")


def test_a_class_may_be_called_train(tmp_path, picture, opened):
    write(tmp_path, picture, {"train/1.png": "red", "plane/1.png": "blue"})
    assert opened(tmp_path, templates="none").labelled.class_names == ("plane", "train")


def test_an_empty_class_keeps_its_number(tmp_path, picture, opened):
    root = write(tmp_path, picture)
    (root / "ant").mkdir()
    dataset = opened(root, templates="none")
    assert dataset.labelled.class_names == ("10", "2", "ant", "cat", "dog")
    assert "1 of 5 classes have no sample" in " ".join(dataset.notes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("dog", "cat", "2", "10"), [3, 2, 1, 1, 0, 0]),  # the same names in another order: by name
        (("ten", "two", "kitten", "puppy"), [0, 1, 2, 2, 3, 3]),  # other names, as many: in the order of the folders
        (("10", "two", "cat", "dog"), [0, 1, 2, 2, 3, 3]),
    ],
)
def test_other_class_names_are_matched_with_the_folders(tmp_path, picture, opened, names, expected):
    dataset = opened(write(tmp_path, picture), class_names=names, templates="none")
    assert dataset.labelled.class_names == names
    assert dataset.labelled.labels.tolist() == expected
    assert any("in the same order" in note for note in dataset.notes) == (names[-1] != "10")


@pytest.mark.parametrize("names", [("ten", "two", "cat"), ("dog", "two", "three", "four")])
def test_class_names_that_cannot_be_matched_are_refused(tmp_path, picture, opened, names):
    with pytest.raises(UserError, match="cannot be matched with those of the folders of .*: '10' is not among them"):
        opened(write(tmp_path, picture), class_names=names, templates="none")


def test_what_the_path_says_is_json(tmp_path, picture, opened):
    dataset = opened(write(tmp_path, picture), group="json:folder", templates="none")
    found = json.loads(dataset.samples.members(3, ("json",))["json"])
    assert found == {"path": "cat/deep/er/2.png", "folder": "er", "class": "cat"}
    assert dataset.groups.names == ("10", "2", "cat", "dog", "er")
    by_name = opened(tmp_path, label="json:class", class_names=("dog", "cat", "2", "10"), templates="none")
    assert by_name.labelled.labels.tolist() == [3, 2, 1, 1, 0, 0]


def test_pictures_with_texts_beside_them_are_for_retrieval(tmp_path, picture, opened):
    write(tmp_path, picture, {"00000/a.png": "red", "00001/b.png": "blue"})
    (tmp_path / "00000/a.txt").write_text("a red thing\nreally red\n")
    (tmp_path / "00001/b.txt").write_text("blue")
    (tmp_path / "00001/b.json").write_text('{"similarity": 0.5, "kind": "sky"}')
    (tmp_path / "00000/a.json").write_text('{"kind": "earth"}')
    (tmp_path / "00001/lost.txt").write_text("of no picture")
    (tmp_path / "stats.csv").write_text("a,b\n")
    dataset = opened(tmp_path, group="json:kind")
    assert dataset.captioned.captions == ("a red thing", "really red", "blue")
    assert dataset.groups.names == ("earth", "sky")
    assert dataset.notes[0].endswith("no pictures were left alone: 1 of .csv, 1 of .txt")


def test_the_fingerprint_follows_the_bytes_and_not_the_folder(tmp_path, picture, indexed):
    first = indexed(write(tmp_path / "one", picture)).samples.fingerprint
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert indexed(tmp_path / "two").samples.fingerprint == first
    (tmp_path / "two/cat/1.png").write_bytes(picture("green"))
    assert indexed(tmp_path / "two").samples.fingerprint != first


def test_a_picture_that_changed_since_is_not_encoded(tmp_path, picture, indexed):
    samples = indexed(write(tmp_path, picture)).samples
    assert samples.fingerprint
    (tmp_path / "10/1.png").write_bytes(picture("green"))
    with pytest.raises(BadSampleError, match=r"10/1\.png: its bytes are others than when the set was opened"):
        samples.image_bytes(0)


def test_pictures_of_other_formats_are_bad_samples_and_not_passed_over(tmp_path, picture, opened):
    (write(tmp_path, picture) / "cat/3.gif").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"sample set/cat/3\.gif has no picture that is read: 3\.gif, expected jpg"):
        opened(tmp_path, templates="none")
    assert len(opened(tmp_path, templates="none", on_bad="skip").labelled.labels) == 6


def test_links_are_followed_but_not_in_circles(tmp_path, picture, opened):
    write(tmp_path / "set", picture)
    write(tmp_path, picture, {"elsewhere/a.png": "red"})
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/cat/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/dog/.hidden.png").write_bytes(b"")
    samples = opened(tmp_path / "set", templates="none").samples
    names = [samples.sample_id(i) for i in range(len(samples))]
    assert names == ["set/10/1.png", "set/2/1.png", *sorted(names[2:])]
    assert "set/linked/a.png" in names
    assert len(names) == 7


def test_a_folder_without_a_picture_in_the_split_is_refused(tmp_path, picture, opened):
    write(tmp_path / "train", picture)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no picture in .*test: expected files that end in jpg, jpeg, png, webp"):
        opened(tmp_path)
