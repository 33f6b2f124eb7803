"""Formats and sizes read from headers against Pillow's, and what hostile headers get."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmclip_data.shards import ShardWriter, build_index, open_index
from mmclip_data.shards.columns import FACT_COLUMNS
from mmclip_data.shards.pictures import FORMATS, Picture, look_at

SIZES = [(1, 1), (640, 7), (3, 500), (16383, 2)]
OPTIONS = {
    "jpeg": [
        {},
        {"progressive": True},
        {"exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(200_000), "comment": b"\xff\xc0" * 9},
        {"restart_marker_blocks": 1, "subsampling": 0},
    ],
    "png": [{}, {"pnginfo": None, "dpi": (72, 72)}],
    "webp": [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}],
    "gif": [{}],
}


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 90).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", OPTIONS)
def test_format_and_size_are_those_that_pillow_finds(kind: str) -> None:
    for size in SIZES:
        for options in OPTIONS[kind]:
            data = encoded(kind, size, **options)
            with Image.open(io.BytesIO(data)) as image:
                assert look_at(data) == Picture(kind, *image.size) == Picture(kind, *size)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_colour_modes_do_not_matter(mode: str) -> None:
    kind = "jpeg" if mode != "1" else "png"
    assert look_at(encoded(kind, (50, 20), mode)) == (kind, 50, 20)


def test_the_size_is_the_stored_one_before_its_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert look_at(encoded("jpeg", (40, 20), exif=exif)) == ("jpeg", 40, 20)


def test_bytes_between_the_segments_of_a_jpeg_are_skipped_as_by_the_decoder() -> None:
    data = encoded("jpeg", (40, 20))
    odd = data[:2] + b"\xff\xff" + data[2:20] + b"\0\0\0" + data[20:]
    with Image.open(io.BytesIO(odd)) as image:
        assert look_at(odd) == ("jpeg", *image.size) == ("jpeg", 40, 20)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_cut_picture_has_its_size_or_none(kind: str) -> None:
    data = encoded(kind, (40, 20))
    found = {look_at(data[:length])[1:] for length in range(len(data))}
    assert found == {(0, 0), (40, 20)}


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFFxxxxWEBPVP8 "]),
)
def test_hostile_bytes_give_sizes_that_fit_the_columns(data: bytes, magic: bytes) -> None:
    found = look_at(magic + data)
    assert found.format in FORMATS
    assert 0 <= found.width < 1 << 32
    assert 0 <= found.height < 1 << 32
    assert (found.width == 0) == (found.height == 0)


def test_a_jpeg_of_nothing_but_markers_is_given_up() -> None:
    assert look_at(b"\xff\xd8" + b"\xff\xe0\0\2" * 500_000) == ("jpeg", 0, 0)
    assert look_at(b"\xff\xd8" + b"\xff" * 2_000_000) == ("jpeg", 0, 0)


def test_index_columns_hold_size_format_and_caption_of_each_sample(tmp_path: Path) -> None:
    members = {
        "a": {"jpg": encoded("jpeg", (30, 20)), "txt": "zwölf".encode()},
        "b": {"jpeg": encoded("png", (31, 21)), "caption": b"four"},
        "c": {"webp": encoded("webp", (32, 22)), "json": b"{}"},
        "d": {"png": b"<html>", "txt": b""},
        "e": {"txt": b"text alone", "text": b"second choice"},
        "f": {"jpg": encoded("jpeg", (33, 23)), "png": encoded("png", (9, 9)), "text": b"x" * 70_000},
        "g": {"png": encoded("gif", (34, 24)), "cls": b"7"},
    }
    with ShardWriter(tmp_path, "a.tar", None) as writer:
        for key, sample in members.items():
            writer.add(key, sample)
    for index in (open_index(tmp_path / "a.tar"), build_index(tmp_path / "a.tar")):
        columns = {name: index.columns[name].tolist() for name in FACT_COLUMNS}
        assert columns["sample_width"] == [30, 31, 32, 0, 0, 33, 34]
        assert columns["sample_height"] == [20, 21, 22, 0, 0, 23, 24]
        assert [FORMATS[kind] for kind in columns["sample_format"]] == [
            *("jpeg", "png", "webp", "unknown", "unknown", "jpeg", "gif")
        ]
        assert columns["sample_caption_bytes"] == [6, 4, 0, 0, 10, 70_000, 0]
        assert index.mislabelled == {"jpeg holds png": 1, "png holds gif": 1, "png holds unknown": 1}


def test_facts_belong_to_their_sample_when_members_stand_apart_and_keys_out_of_order(tmp_path: Path) -> None:
    import tarfile

    rng = np.random.default_rng(0)
    sizes = {f"k{number}": (int(rng.integers(1, 60)), int(rng.integers(1, 60))) for number in range(20)}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for extension in ("txt", "JPG"):
            for key in rng.permutation(sorted(sizes)):
                payload = encoded("jpeg", sizes[key]) if extension == "JPG" else key.encode() * sizes[key][0]
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
    index = build_index(tmp_path / "a.tar")
    columns = (index.columns[name].tolist() for name in ("sample_width", "sample_height", "sample_caption_bytes"))
    for number, (width, height, caption) in enumerate(zip(*columns, strict=True)):
        key = index.key(number)
        assert (width, height) == sizes[key]
        assert caption == len(key) * width
