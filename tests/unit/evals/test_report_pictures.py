import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmclip_eval.report.pictures import Album, thumbnail
from mmclip_eval.sources.tars import ShardedSamples


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


@pytest.fixture
def album_of(tmp_path: Path, write_tar):
    """An album of the pictures given as bytes."""

    def make(*pictures: bytes, budget: int = 1_000_000) -> Album:
        write_tar(tmp_path / "a.tar", [{"png": data, "txt": b"a text"} for data in pictures])
        return Album(ShardedSamples("a", [tmp_path / "a.tar"]), budget)

    return make


def shown(uri: str) -> Image.Image:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("size", "pixels", "css"),
    [
        ((1000, 500), (200, 100), (100, 50)),  # large: two pixels for each CSS pixel
        ((150, 120), (150, 120), (100, 80)),  # between one and two: as it is
        ((90, 60), (90, 60), (90, 60)),  # smaller than its place: not enlarged by the browser
        ((28, 28), (84, 84), (84, 84)),  # very small: by a whole number of times
        ((3, 1), (99, 33), (99, 33)),
        ((2000, 21), (200, 2), (100, 1)),
    ],
)
def test_pictures_have_a_pixel_for_each_css_pixel_and_two_where_they_can(size, pixels, css):
    data, width, height = thumbnail(Image.new("RGB", size, "teal"), 100)
    assert (Image.open(io.BytesIO(data)).size, (width, height)) == (pixels, css)


def test_a_very_small_picture_keeps_its_pixels_exactly():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    data, width, _ = thumbnail(small, 64)
    enlarged = np.asarray(Image.open(io.BytesIO(data)))
    assert width == 64
    assert (enlarged == np.asarray(small).repeat(4, axis=0).repeat(4, axis=1)).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16", "CMYK"])
def test_odd_kinds_of_pictures_are_shown_as_the_model_sees_them(album_of, mode):
    image = Image.new("RGB", (80, 80), (200, 30, 30)).convert("L" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    album = album_of(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    picture = album.picture(0, 80)
    assert picture.problem == ""
    assert shown(picture.uri).convert("RGB").size == (80, 80)


def test_a_picture_that_cannot_be_read_is_named_and_the_page_goes_on(album_of, tmp_path):
    good = encoded(Image.new("RGB", (64, 64), "navy"))
    album = album_of(good, b"no picture at all", good)
    assert [bool(album.picture(i, 64).uri) for i in range(3)] == [True, False, True]
    assert list(album.problems) == [1]
    assert "a/a.tar/s0000001" in album.problems[1]
    album.samples.close()
    (tmp_path / "a.tar").unlink()  # moved away after it was encoded
    assert album.picture(0, 64).uri == ""
    assert list(album.problems) == [1, 0]


def test_pictures_stop_at_the_budget(album_of):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    album = album_of(encoded(Image.fromarray(noise)), budget=50_000)
    pictures = [album.picture(0, 100) for _ in range(20)]
    sizes = [len(base64.b64decode(p.uri.split(",")[1])) for p in pictures if p.uri]
    assert 0 < sum(sizes) <= 50_000
    assert pictures[-1].problem == "left out: page full"
