"""idx files to CLIP_benchmark's layout: pixels, labels and captions are kept, and every malformed file is named."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.pipelines.idx import STANDARD_NAMES, IdxConfig, make_idx, png_bytes, read_idx
from mmclip_data.shards import build_index, open_index

NAMES = ("cat", "dog", "owl")


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_source(folder: Path, train: int = 7, test: int = 3) -> dict[str, np.ndarray]:
    """Four idx files under their usual names, half of them gzipped."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(5)
    arrays_of = {}
    for split, count in (("train", train), ("test", test)):
        arrays_of[f"{split}_images"] = random.integers(0, 256, (count, 6, 5), np.uint8)
        arrays_of[f"{split}_labels"] = random.integers(0, len(NAMES), count).astype(np.uint8)
        (folder / STANDARD_NAMES[f"{split}_images"]).write_bytes(idx_bytes(arrays_of[f"{split}_images"]))
        with gzip.open(folder / f"{STANDARD_NAMES[f'{split}_labels']}.gz", "wb") as handle:
            handle.write(idx_bytes(arrays_of[f"{split}_labels"]))
    return arrays_of


def config(tmp_path: Path, **changes: Any) -> IdxConfig:
    settings: dict[str, Any] = {
        "source": tmp_path / "source",
        "output": tmp_path / "out",
        "classes": "custom",
        "class_names": NAMES,
        "templates": ("a photo of a {c}", "a {c}"),
        "samples_per_shard": 3,
    }
    return IdxConfig(**(settings | changes))


def test_pixels_labels_and_captions_are_those_of_the_idx_files(tmp_path: Path) -> None:
    arrays_of = write_source(tmp_path / "source")
    report = make_idx(config(tmp_path))
    assert report.counts == {"train samples": 7, "test samples": 3, "classes": 3}
    for split, shards in (("train", 3), ("test", 1)):
        folder = tmp_path / "out" / split
        assert (folder / "nshards.txt").read_text().strip() == str(shards)
        samples = list(WebDataset([str(folder / f"{n}.tar") for n in range(shards)], shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == [f"s{n:07d}" for n in range(len(samples))]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(sample["png"]))) for sample in samples])
        labels = [int(sample["cls"]) for sample in samples]
        np.testing.assert_array_equal(pixels, arrays_of[f"{split}_images"])
        assert labels == arrays_of[f"{split}_labels"].tolist()
        templates = ("a photo of a {c}", "a {c}")
        captions = [templates[n % 2].replace("{c}", NAMES[label]) for n, label in enumerate(labels)]
        assert [sample["txt"].decode() for sample in samples] == captions
        assert b"\n" not in samples[0]["cls"]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "cat\ndog\nowl\n"
    assert (tmp_path / "out" / "zeroshot_classification_templates.txt").read_text() == "a photo of a {c}\na {c}\n"
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == set(report.files)


def test_two_runs_give_the_same_bytes_and_an_index_beside_every_tar(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    first = make_idx(config(tmp_path))
    second = make_idx(config(tmp_path, output=tmp_path / "again"))
    for a, b in zip(first.files, second.files, strict=True):
        assert a.name == b.name
        assert a.read_bytes() == b.read_bytes()
    for tar in (tmp_path / "out").rglob("*.tar"):
        assert build_index(tar).fingerprint == open_index(tar).fingerprint


def test_a_smaller_second_run_leaves_no_shard_of_the_first(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    make_idx(config(tmp_path))
    (tmp_path / "out" / "notes.md").write_text("mine")
    write_source(tmp_path / "source", train=2)
    with pytest.raises(UserError, match="is not empty; name a new folder, or set overwrite"):
        make_idx(config(tmp_path))
    make_idx(config(tmp_path, overwrite=True))
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == [
        "0.tar",
        "0.tar.mmidx",
        "nshards.txt",
    ]
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_our_png_is_the_image_that_pillow_reads(image: np.ndarray) -> None:
    with Image.open(io.BytesIO(png_bytes(image))) as decoded:
        assert (decoded.format, decoded.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(decoded), image)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header starts with , expected 00 00 08 03"),
        (idx_bytes(np.zeros(4, np.uint8)), "expected 00 00 08 03 .* are images and labels exchanged"),
        (b"\0\0\x0d\x03" + bytes(12), "header starts with 00 00 0d 03"),
        (gzip.compress(idx_bytes(np.zeros((1, 2, 2), np.uint8)), mtime=0), "gzipped without .gz"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8))[:-1], "2 x 2 x 2 = 8 bytes, the file holds 7"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8)) + b"x", "2 x 2 x 2 = 8 bytes, the file holds more than 8"),
        (idx_bytes(np.zeros((0, 2, 2), np.uint8)), "0 x 2 x 2 = 0 bytes"),
        (idx_bytes(np.zeros((1, 2, 2), np.uint8))[:9], "header starts with 00 00 08 03"),
    ],
)
def test_a_malformed_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(UserError, match=rf"images: .*{message}"):
        read_idx(tmp_path / "images", 3)


def test_a_cut_or_damaged_gz_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(np.arange(64, dtype=np.uint8).reshape(1, 8, 8)))
    path = tmp_path / "images.gz"
    path.write_bytes(whole)
    assert read_idx(path, 3).sum() == 2016
    for damaged in (whole[:-6], whole[:40], whole[:-6] + b"\xff" + whole[-5:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images\.gz: damaged gzip data"):
            read_idx(path, 3)


def test_counts_that_differ_and_labels_without_a_name_are_named(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    labels = tmp_path / "source" / STANDARD_NAMES["test_labels"]
    labels.write_bytes(idx_bytes(np.zeros(2, np.uint8)))
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte holds 3 images, .* holds 2 labels"):
        make_idx(config(tmp_path))
    labels.write_bytes(idx_bytes(np.array([0, 3, 9], np.uint8)))
    with pytest.raises(UserError, match=r"label 3 of image 1 has no class name, there are 3 .*; 2 labels are out"):
        make_idx(config(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ()}, "give class_names with classes='custom'"),
        ({"classes": "mnist"}, "give class_names with classes='custom'"),
        ({"class_names": ("cat", "cat", "owl")}, "expected names that differ"),
        ({"templates": ("a photo",)}, "'a photo' has no place for the class name"),
        ({"source": None}, "train_images, train_labels, test_images, test_labels: not given"),
        ({"test_images": Path("x")}, "source and single files are both given"),
        ({"source": Path("nowhere")}, "expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz; no such folder"),
        ({"class_names": ("cat", "d\nog", "owl")}, "each one line and not empty"),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_source(tmp_path / "source")
    with pytest.raises(UserError, match=message):
        make_idx(config(tmp_path, **changes))


def test_single_files_and_presets_work_without_a_source_folder(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    files: dict[str, Any] = {}
    for name, standard in STANDARD_NAMES.items():
        suffix = ".gz" if name.endswith("labels") else ""
        files[name] = tmp_path / "source" / f"{standard}{suffix}"
    make_idx(IdxConfig(output=tmp_path / "out", **files))
    names = (tmp_path / "out" / "classnames.txt").read_text().splitlines()
    assert (len(names), names[0], names[9]) == (10, "t-shirt", "ankle boot")
