"""Folders of images to shards: original bytes, captions from classes or files, and no file left out in silence."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.pipelines.folder import FolderConfig, make_folder
from mmclip_data.shards import build_index, open_index


def image_bytes(name: str, colour: int) -> bytes:
    buffer = io.BytesIO()
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF"}
    Image.new("RGB", (8, 6), (colour, 40, 90)).save(buffer, formats[Path(name).suffix.lower()])
    return buffer.getvalue()


def fill(folder: Path, names: Mapping[str, str | bytes | None]) -> dict[str, bytes]:
    """Write files; None makes a valid image for the name. Returns every file's bytes."""
    written = {}
    for number, (name, content) in enumerate(names.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = (
            image_bytes(name, number)
            if content is None
            else content
            if isinstance(content, bytes)
            else content.encode()
        )
        path.write_bytes(data)
        written[name] = data
    return written


def config(tmp_path: Path, **changes: Any) -> FolderConfig:
    settings: dict[str, Any] = {"source": tmp_path / "source", "output": tmp_path / "out"}
    return FolderConfig(**(settings | changes))


def read(folder: Path) -> list[dict[str, Any]]:
    tars = sorted(folder.glob("*.tar"), key=lambda path: int(path.stem))
    assert (folder / "nshards.txt").read_text().strip() == str(len(tars))
    for tar in tars:
        assert build_index(tar).fingerprint == open_index(tar).fingerprint
    return list(WebDataset([str(tar) for tar in tars], shardshuffle=False))


def test_class_folders_give_labels_and_captions_and_keep_the_bytes(tmp_path: Path) -> None:
    files = fill(
        tmp_path / "source",
        {"tabby_cat/b.JPG": None, "tabby_cat/a.png": None, "dog/deep/x.webp": None, "dog/y.jpeg": None},
    )
    report = make_folder(config(tmp_path, samples_per_shard=3))
    samples = read(tmp_path / "out" / "train")
    sources = (tmp_path / "out" / "train" / "sources.txt").read_text().splitlines()
    assert sources == ["dog/deep/x.webp", "dog/y.jpeg", "tabby_cat/a.png", "tabby_cat/b.JPG"]
    for sample, source in zip(samples, sources, strict=True):
        name = "dog" if source.startswith("dog") else "tabby cat"
        assert sample[Path(source).suffix.lower()[1:].replace("jpeg", "jpg")] == files[source]
        assert (sample["cls"], sample["txt"]) == (b"0" if name == "dog" else b"1", name.encode())
    assert (tmp_path / "out" / "classnames.txt").read_text() == "dog\ntabby cat\n"
    assert (tmp_path / "out" / "zeroshot_classification_templates.txt").read_text() == "a photo of a {c}\n"
    assert report.counts == {"train samples": 4}
    assert report.notes == ("captions from: class-folders (found)",)
    assert report.skipped == {}


def test_caption_files_give_one_caption_a_line(tmp_path: Path) -> None:
    files = fill(
        tmp_path / "source",
        {
            "a.jpg": None,
            "a.txt": "a cat \n\n  a  black cat\n",
            "sub/b.png": None,
            "sub/b.json": json.dumps({"caption": "ein Hund läuft"}),
            "sub/c.webp": None,
            "sub/c.json": json.dumps({"captions": ["one", "two"], "url": "x"}),
        },
    )
    report = make_folder(config(tmp_path, split="test"))
    samples = read(tmp_path / "out" / "test")
    assert [sample["txt"].decode() for sample in samples] == ["a cat\na black cat", "ein Hund läuft", "one\ntwo"]
    assert [sample["jpg" if "jpg" in sample else "png" if "png" in sample else "webp"] for sample in samples] == [
        files[name] for name in ("a.jpg", "sub/b.png", "sub/c.webp")
    ]
    assert "cls" not in samples[0]
    assert (tmp_path / "out" / "dataset_type.txt").read_text() == "retrieval\n"
    assert report.notes == ("captions from: captions (found)",)


def test_every_file_is_a_sample_a_caption_or_named_in_the_report(tmp_path: Path) -> None:
    fill(
        tmp_path / "source",
        {
            "a.jpg": None,
            "a.txt": "a cat",
            "a.json": "[no facts]",
            "alone.png": None,
            "blank.png": None,
            "blank.txt": " \n",
            "broken.png": None,
            "broken.json": "{",
            "latin.png": None,
            "latin.txt": "gr\xfc\xdfe".encode("latin-1"),
            "list.png": None,
            "list.json": '{"captions": [1, 2]}',
            "orphan.txt": "no picture",
            "page.jpg": "<html>not found</html>",
            "empty.jpg": b"",
            "moving.gif": None,
            ".DS_Store": "x",
        },
    )
    (tmp_path / "source" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "elsewhere")
    report = make_folder(config(tmp_path, kind="captions"))
    assert report.counts == {"train samples": 1}
    assert report.notes == ("captions from: captions (as asked)",)
    assert report.skipped == {
        "image without a caption": ("alone.png",),
        "empty caption": ("blank.png",),
        "caption file cannot be read (JSONDecodeError)": ("broken.png",),
        "caption file cannot be read (UnicodeDecodeError)": ("latin.png",),
        "caption file cannot be read (TypeError)": ("list.png",),
        "json beside a caption cannot be read": ("a.json",),
        "caption without an image, or a second caption file": ("orphan.txt",),
        "named .jpg but neither JPEG, PNG nor WebP inside": ("page.jpg",),
        "empty image file": ("empty.jpg",),
        "image type that is not JPEG, PNG or WebP": ("moving.gif",),
        "neither image nor caption": (".DS_Store",),
        "broken link or special file": ("dangling.jpg",),
        "linked folder, not followed": ("linked",),
    }
    text = "\n".join(report.lines())
    assert all(name in text for names in report.skipped.values() for name in names)


def test_train_and_test_folders_are_two_splits_with_one_list_of_classes(tmp_path: Path) -> None:
    fill(
        tmp_path / "source", {"train/b/1.jpg": None, "train/c/1.jpg": None, "test/a/1.jpg": None, "test/c/2.jpg": None}
    )
    fill(tmp_path / "source", {"README": "x"})
    report = make_folder(config(tmp_path))
    labels = {split: [int(s["cls"]) for s in read(tmp_path / "out" / split)] for split in ("train", "test")}
    assert labels == {"train": [1, 2], "test": [0, 2]}
    assert report.skipped == {"outside train and test": ("README",)}


def test_train_beside_other_classes_is_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "source", {"train/1.jpg": None, "bus/1.jpg": None})
    make_folder(config(tmp_path))
    assert (tmp_path / "out" / "classnames.txt").read_text() == "bus\ntrain\n"


def test_two_runs_give_the_same_bytes_whatever_the_order_on_disk(tmp_path: Path) -> None:
    names = {f"class{n % 3}/{n}.png": None for n in range(9)}
    files = fill(tmp_path / "source", names)
    fill(tmp_path / "other", dict(reversed(files.items())))
    first = make_folder(config(tmp_path, samples_per_shard=4))
    second = make_folder(config(tmp_path, samples_per_shard=4, source=tmp_path / "other", output=tmp_path / "again"))
    assert [path.name for path in first.files] == [path.name for path in second.files]
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ({"a.jpg": None}, {}, "1 images, 0 with a caption file, 0 in a class folder"),
        ({"a.jpg": None, "cat/b.jpg": None}, {}, "2 images, 0 with a caption file, 1 in a class folder"),
        ({"notes.txt": "x"}, {}, "0 images"),
        ({"a.jpg": None}, {"kind": "captions"}, "no image with a caption, as captions; 1 image without a caption"),
        ({"a.jpg": None}, {"kind": "class-folders"}, "1 image outside a class folder"),
        ({"a_b/1.jpg": None, "a b/1.jpg": None}, {}, "names must differ"),
        ({"train/a/1.jpg": None, "val/a/1.jpg": None}, {}, "val/ beside train/ or test/"),
        ({"c/a.jpg": None}, {"templates": ("photo",)}, "no place for the class name"),
    ],
)
def test_a_folder_that_cannot_be_understood_says_what_was_found(
    tmp_path: Path, names: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    fill(tmp_path / "source", names)
    with pytest.raises(UserError, match=message):
        make_folder(config(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_places_that_would_mix_source_and_output_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "source", {"c/a.jpg": None})
    for output in (tmp_path / "source", tmp_path / "source" / "out", tmp_path):
        with pytest.raises(UserError, match="one lies in the other"):
            make_folder(config(tmp_path, output=output))
    with pytest.raises(UserError, match="no such folder"):
        make_folder(config(tmp_path, source=tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        make_folder(config(tmp_path, output=tmp_path / "file"))


def test_what_cannot_be_decoded_is_dropped_and_everything_left_out_is_in_the_list(tmp_path: Path) -> None:
    whole = image_bytes("b.png", 3)
    fill(tmp_path / "source", {"c/a.jpg": None, "c/cut.png": whole[:50], "c/z.webp": None, "c/notes.md": "x"})
    report = make_folder(config(tmp_path))
    assert report.counts == {"train samples": 2}
    assert report.skipped == {"neither image nor caption": ("c/notes.md",), "picture cannot be decoded": ("c/cut.png",)}
    folder = tmp_path / "out" / "train"
    assert (folder / "sources.txt").read_text() == "c/a.jpg\nc/z.webp\n"
    assert len(read(folder)) == 2
    names = [json.loads(line)["source"] for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert names == ["c/cut.png", "c/notes.md"]
    kept = make_folder(config(tmp_path, output=tmp_path / "all", decode=False))
    assert kept.counts == {"train samples": 3}


def test_a_stopped_run_goes_on_and_a_changed_caption_is_another_job(tmp_path: Path) -> None:
    fill(
        tmp_path / "source",
        {name: None if name.endswith("jpg") else name for n in range(9) for name in (f"{n}.jpg", f"{n}.txt")},
    )
    make_folder(config(tmp_path, samples_per_shard=4))
    folder = tmp_path / "out" / "train"
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = (folder / "job.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "job.jsonl").write_bytes(b"".join(lines[:2]))
    for name in ("1.tar", "2.tar", "nshards.txt"):
        (folder / name).unlink()
    make_folder(config(tmp_path, samples_per_shard=4))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    (tmp_path / "source" / "3.txt").write_text("another")
    with pytest.raises(UserError, match="another job"):
        make_folder(config(tmp_path, samples_per_shard=4))
    make_folder(config(tmp_path, samples_per_shard=4, overwrite=True))
    assert read(folder)[3]["txt"] == b"another"


def test_captions_have_other_endings_too_and_json_is_kept(tmp_path: Path) -> None:
    files = fill(
        tmp_path / "source",
        {
            "a.JPG": None,
            "a.TXT": "one\ntwo",
            "b.jpeg": None,
            "b.caption": "three",
            "c.jpg": image_bytes("c.png", 7),
            "c.text": "four",
            "c.json": '{"caption": "another", "score": 0.5, "bad": NaN}',
            "d.webp": None,
            "d.json": '{"text": "five", "id": 9}',
        },
    )
    report = make_folder(config(tmp_path))
    assert report.skipped == {}
    found = [
        (set(sample) - {"__key__", "__url__", "__local_path__"}, sample["txt"].decode())
        for sample in read(tmp_path / "out/train")
    ]
    assert found == [
        ({"jpg", "txt"}, "one\ntwo"),
        ({"jpg", "txt"}, "three"),
        ({"png", "txt", "json"}, "four"),
        ({"webp", "txt", "json"}, "five"),
    ]
    samples = read(tmp_path / "out/train")
    assert samples[2]["png"] == files["c.jpg"], "named by what is inside"
    assert json.loads(samples[2]["json"]) == {"caption": "another", "score": 0.5, "bad": None}
    assert json.loads(samples[3]["json"]) == {"text": "five", "id": 9}
    assert "finished before" in make_folder(config(tmp_path)).notes[-1]
    (tmp_path / "source/d.json").write_text('{"text": "five", "id": 10, "more": 1}')
    with pytest.raises(UserError, match="another job"):
        make_folder(config(tmp_path))
