"""MNIST-family data (idx files, gzipped or not) to shards in CLIP_benchmark's layout.

apt-get install dataset-fashion-mnist
mmclip shards make idx --source /usr/share/datasets/fashion-mnist --output data/fashion-mnist
"""

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.layout import caption, checked_templates, write_lines, write_split
from mmclip_data.pipelines.report import MakeReport, prepare_output

UNSIGNED_BYTE = 0x08
STANDARD_NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CLASS_NAMES = {
    "fashion-mnist": (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "mnist": tuple("0123456789"),
}
TEMPLATES = {
    "fashion-mnist": ("a photo of a {c}", "a picture of a {c}", "a {c}"),
    "mnist": ('a photo of the number: "{c}".', "a handwritten {c}", "the digit {c}"),
    "custom": ("a photo of a {c}",),
}


@config
class IdxConfig:
    """Four idx files, or a folder that holds them under their usual names, to train and test shards."""

    output: Path
    """Folder to write; must be new or empty."""
    source: Path | None = None
    """Folder with train-images-idx3-ubyte and the other three, each with or without .gz."""
    train_images: Path | None = None
    """Instead of `source`: the training images (idx, three dimensions, unsigned bytes)."""
    train_labels: Path | None = None
    """Instead of `source`: the training labels (idx, one dimension, unsigned bytes)."""
    test_images: Path | None = None
    """Instead of `source`: the test images."""
    test_labels: Path | None = None
    """Instead of `source`: the test labels."""
    classes: Literal["fashion-mnist", "mnist", "custom"] = "fashion-mnist"
    """Whose class names and templates to use; `custom` takes `class_names`."""
    class_names: tuple[str, ...] = ()
    """With `classes` custom: the name of label 0, 1, ..."""
    templates: tuple[str, ...] = ()
    """Captions with {c} for the class name, used in turn; empty takes those of `classes`."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


def make_idx(config: IdxConfig) -> MakeReport:
    """Write `train/` and `test/` from idx files; images become lossless grey PNGs.

    Raises:
        UserError: a file is missing or is not the idx file it should be, images and labels differ in number, a label
            has no class name, or the output folder is not empty.
    """
    paths = _source_files(config)
    names = _class_names(config)
    templates = checked_templates(config.templates or TEMPLATES[config.classes])
    splits = {
        split: _read_split(paths[f"{split}_images"], paths[f"{split}_labels"], names) for split in ("train", "test")
    }
    prepare_output(config.output, config.overwrite)
    files: list[Path] = []
    for split, (images, labels) in splits.items():
        samples = _samples(images, labels, names, templates)
        files += write_split(config.output / split, samples, config.samples_per_shard)
    files.append(write_lines(config.output / "classnames.txt", names))
    files.append(write_lines(config.output / "zeroshot_classification_templates.txt", templates))
    counts = {f"{split} samples": len(labels) for split, (_, labels) in splits.items()}
    return MakeReport(config.output, counts | {"classes": len(names)}, tuple(files))


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of an idx file of unsigned bytes with so many dimensions, unpacked when its name ends in `.gz`.

    Raises:
        UserError: the header is not that of such a file, or the data are shorter or longer than it says.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such idx file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            return _read_array(path, handle, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip data ({error}); fetch the file again") from error


def _read_array(path: Path, handle: io.BufferedIOBase, dimensions: int) -> UInt8[np.ndarray, "..."]:
    header = handle.read(4 + 4 * dimensions)
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if header[:4] != expected or len(header) != 4 + 4 * dimensions:
        raise UserError(
            f"{path}: header starts with {header[:4].hex(' ')}, expected {expected.hex(' ')} "
            f"(idx, unsigned bytes, {dimensions} dimensions); "
            "are images and labels exchanged, or is it gzipped without .gz?"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    data = handle.read(size + 1)
    if size == 0 or len(data) != size:
        got = f"more than {size}" if len(data) > size else str(len(data))
        raise UserError(f"{path}: header says {' x '.join(map(str, shape))} = {size} bytes, the file holds {got}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def png_bytes(image: UInt8[np.ndarray, "height width_px"]) -> bytes:
    """An 8-bit grey PNG at zlib level 1; Pillow takes 200 microseconds for a 28 px image, this takes 30."""
    height, width_px = image.shape
    rows = np.zeros((height, width_px + 1), np.uint8)  # each row starts with its filter type, 0 = none
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width_px, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _samples(
    images: UInt8[np.ndarray, "image height width_px"],
    labels: UInt8[np.ndarray, " image"],
    names: tuple[str, ...],
    templates: tuple[str, ...],
) -> Iterator[dict[str, bytes]]:
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        text = caption(templates, names[label], number)
        yield {"cls": str(label).encode(), "png": png_bytes(image), "txt": text.encode()}


def _read_split(
    images_path: Path, labels_path: Path, names: tuple[str, ...]
) -> tuple[UInt8[np.ndarray, "image height width_px"], UInt8[np.ndarray, " image"]]:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images, {labels_path} holds {len(labels)} labels; expected as many"
        )
    unknown = np.flatnonzero(labels >= len(names))
    if len(unknown):
        first = int(unknown[0])
        raise UserError(
            f"{labels_path}: label {labels[first]} of image {first} has no class name, there are {len(names)} (0 to "
            f"{len(names) - 1}); {len(unknown)} labels are out of range: give every class a name"
        )
    return images, labels


def _class_names(config: IdxConfig) -> tuple[str, ...]:
    if (config.classes == "custom") != bool(config.class_names):
        raise UserError(
            f"classes={config.classes!r} with {len(config.class_names)} class_names; "
            "give class_names with classes='custom', and only then"
        )
    names = config.class_names or CLASS_NAMES[config.classes]
    if len(set(names)) != len(names) or not all(name.strip() and name.splitlines() == [name] for name in names):
        raise UserError(f"class_names={list(names)}: expected names that differ, each one line and not empty")
    return names


def _source_files(config: IdxConfig) -> dict[str, Path]:
    given = {name: getattr(config, name) for name in STANDARD_NAMES}
    missing = [name for name, path in given.items() if path is None]
    if config.source is None:
        if missing:
            raise UserError(f"{', '.join(missing)}: not given; name all four files, or their folder as `source`")
        return given
    if len(missing) != len(given):
        raise UserError("source and single files are both given; expected one or the other")
    return {name: _find(config.source, standard) for name, standard in STANDARD_NAMES.items()}


def _find(folder: Path, standard: str) -> Path:
    for name in (standard, f"{standard}.gz"):
        if (folder / name).is_file():
            return folder / name
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    found = "no such folder" if present is None else f"it holds {', '.join(present[:6]) or 'nothing'}"
    raise UserError(f"source={folder}: expected {standard} or {standard}.gz; {found}")
