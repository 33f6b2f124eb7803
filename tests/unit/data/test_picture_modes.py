"""The policy of docs/pictures.md, mode by mode: golden pixels for what a file may hold, and refusals for what it may not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmclip.errors import BadSampleError
from mmclip_data.loading.decode import decode_image, open_picture

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
SIZE = (32, 16)


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def halves(mode: str, left: object, right: object) -> Image.Image:
    """A picture whose left half is one value and whose right half another."""
    image = Image.new(mode, SIZE, left)  # pyright: ignore[reportArgumentType]
    image.paste(right, (SIZE[0] // 2, 0, *SIZE))  # pyright: ignore[reportArgumentType]
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour: int, left: bytes, right: bytes, extra: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG written by hand, for what Pillow does not write; `left` and `right` are half a row each."""
    header = struct.pack(">IIBBBBB", *SIZE, depth, colour, 0, 0, interlace)
    rows = zlib.compress((b"\0" + left + right) * SIZE[1])
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def sixteen(*values: int) -> bytes:
    return b"".join(struct.pack(">H", value) for value in values) * (SIZE[0] // 2)


def palette(transparent: bool) -> bytes:
    image = halves("P", 0, 1)
    image.putpalette([*RED, *BLUE])
    return saved(image, "PNG", **({"transparency": 0} if transparent else {}))


def frames(fmt: str) -> bytes:
    images = [Image.new("RGB", SIZE, colour) for colour in (GREEN, RED, BLUE)]
    return saved(images[0], fmt, save_all=True, append_images=images[1:], duration=40, lossless=True)


def turned(fmt: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    return saved(halves("RGB", RED, BLUE), fmt, exif=exif, **options)


MODES = {
    "JPEG RGB": (saved(halves("RGB", RED, BLUE), "JPEG", quality=95), RED, BLUE),
    "JPEG progressive": (saved(halves("RGB", RED, BLUE), "JPEG", progressive=True, quality=95), RED, BLUE),
    "JPEG 4:4:4": (saved(halves("RGB", GREEN, BLUE), "JPEG", subsampling="4:4:4", quality=95), GREEN, BLUE),
    "JPEG without YCbCr": (saved(halves("RGB", RED, GREEN), "JPEG", keep_rgb=True, quality=95), RED, GREEN),
    "JPEG grey": (saved(halves("L", 40, 200), "JPEG", quality=95), (40,) * 3, (200,) * 3),
    "JPEG CMYK": (saved(halves("CMYK", (0, 255, 255, 0), (255, 0, 0, 0)), "JPEG", quality=95), RED, (0, 255, 255)),
    "JPEG mirrored by EXIF": (turned("JPEG", 2), BLUE, RED),
    "JPEG upside down by EXIF": (turned("JPEG", 3), BLUE, RED),
    "PNG RGB": (saved(halves("RGB", RED, BLUE), "PNG"), RED, BLUE),
    "PNG RGB with a transparent colour, ignored": (saved(halves("RGB", RED, BLUE), "PNG", transparency=RED), RED, BLUE),
    "PNG RGBA": (saved(halves("RGBA", (*RED, 255), (0, 0, 0, 0)), "PNG"), RED, WHITE),
    "PNG RGBA half transparent": (
        saved(halves("RGBA", (*RED, 128), (*BLACK, 128)), "PNG"),
        (255, 127, 127),
        (127,) * 3,
    ),
    "PNG grey": (saved(halves("L", 7, 250), "PNG"), (7,) * 3, (250,) * 3),
    "PNG grey and alpha": (saved(halves("LA", (40, 255), (40, 0)), "PNG"), (40,) * 3, WHITE),
    "PNG grey with a transparent level": (saved(halves("L", 40, 90), "PNG", transparency=40), WHITE, (90,) * 3),
    "PNG 1 bit": (saved(halves("1", 0, 1), "PNG"), BLACK, WHITE),
    "PNG 2 bits": (png(2, 0, b"\x55" * 4, b"\xff" * 4), (85,) * 3, WHITE),
    "PNG 4 bits": (png(4, 0, b"\x33" * 8, b"\xcc" * 8), (51,) * 3, (204,) * 3),
    "PNG palette": (palette(False), RED, BLUE),
    "PNG palette with a transparent entry": (palette(True), WHITE, BLUE),
    "PNG 16 bits grey": (png(16, 0, sixteen(60000), sixteen(300)), (233,) * 3, (1,) * 3),
    "PNG 16 bits grey and alpha": (png(16, 4, sixteen(20560, 65535), sixteen(0, 0)), (80,) * 3, WHITE),
    "PNG 16 bits RGB": (png(16, 2, sixteen(65535, 0, 32896), sixteen(0, 65535, 0)), (255, 0, 128), GREEN),
    "PNG 16 bits RGBA": (png(16, 6, sixteen(65535, 0, 0, 65535), sixteen(0, 0, 0, 0)), RED, WHITE),
    "PNG animated": (frames("PNG"), GREEN, GREEN),
    "PNG turned by EXIF": (turned("PNG", 3), BLUE, RED),
    "WebP": (saved(halves("RGB", RED, BLUE), "WEBP", lossless=True), RED, BLUE),
    "WebP lossy": (
        saved(halves("RGB", (200, 60, 60), (60, 60, 200)), "WEBP", quality=95),
        (200, 60, 60),
        (60, 60, 200),
    ),
    "WebP with alpha": (saved(halves("RGBA", (*RED, 255), (*BLUE, 0)), "WEBP", lossless=True), RED, WHITE),
    "WebP animated": (frames("WEBP"), GREEN, GREEN),
    "WebP turned by EXIF": (turned("WEBP", 2), BLUE, RED),
}


def test_there_are_at_least_24_modes():
    assert len(MODES) >= 24


@pytest.mark.parametrize("name", MODES)
def test_mode_has_its_golden_pixels(name: str):
    data, left, right = MODES[name]
    tolerance = 4 if name.startswith("JPEG") or name == "WebP lossy" else 0
    whole = np.asarray(decode_image(data)).astype(int)
    view = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    open_picture(data).part((0.0, 0.0, float(SIZE[0]), float(SIZE[1])), (0, 0), view, "bicubic")
    for pixels in (whole, view.astype(int)):
        assert pixels.shape == (SIZE[1], SIZE[0], 3)
        for colour, x in ((left, 4), (right, SIZE[0] - 5)):
            assert np.abs(pixels[SIZE[1] // 2, x] - colour).max() <= tolerance


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_orientations_that_swap_the_sides(orientation: int):
    picture = open_picture(turned("JPEG", orientation))
    assert picture.size == (SIZE[1], SIZE[0])
    view = np.zeros((SIZE[0], SIZE[1], 3), np.uint8)
    picture.part((0.0, 0.0, float(SIZE[1]), float(SIZE[0])), (0, 0), view, "bicubic")
    top, bottom = (RED, BLUE) if orientation in (5, 6) else (BLUE, RED)
    assert np.abs(view[4, 8].astype(int) - top).max() < 8
    assert np.abs(view[-5, 8].astype(int) - bottom).max() < 8


def gray(value: int) -> Image.Image:
    return Image.new("L", SIZE, value)


REFUSED = {
    "GIF": saved(gray(1), "GIF"),
    "BMP": saved(gray(1), "BMP"),
    "TIFF": saved(gray(1), "TIFF"),
    "TIFF of floats": saved(Image.new("F", SIZE, 0.5), "TIFF"),
    "PPM": saved(gray(1), "PPM"),
    "ICO": saved(Image.new("RGB", (32, 32)), "ICO"),
    "PDF": b"%PDF-1.7\n" + bytes(100),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "web page": b"<!DOCTYPE html><html>404</html>",
    "nothing": b"",
    "one byte": b"\xff",
    "JPEG magic alone": b"\xff\xd8\xff",
    "PNG magic alone": b"\x89PNG\r\n\x1a\n",
    "WebP magic alone": b"RIFF\x00\x00\x00\x00WEBP",
    "JPEG of a bad length": b"\xff\xd8\xff\xe0\x00\x00" + bytes(100),
    "PNG with a bad checksum": MODES["PNG RGB"][0].replace(b"IHDR", b"IHDS", 1),
    "PNG with a text bomb": png(
        8, 0, b"\0" * 16, b"\0" * 16, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20)))
    ),
    "PNG of 90 megapixels": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 9_000, 1, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(9_000 * 1251))),
    "PNG 1 x 20000": saved(Image.new("L", (1, 20_000)), "PNG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_a_bad_sample(name: str):
    for decode in (decode_image, open_picture):
        with pytest.raises(BadSampleError):
            decode(REFUSED[name])


@pytest.mark.parametrize(
    ("fmt", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("JPEG", "RGB")]
)
@pytest.mark.parametrize("percent", [1, 20, 60, 99])
def test_truncated_pictures_are_bad(fmt: str, mode: str, percent: int):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise).convert(mode), fmt)
    with pytest.raises(BadSampleError):
        decode_image(data[: len(data) * percent // 100])


def test_nothing_has_made_pillow_forgive_truncated_files():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_many_frames_cost_no_more_than_one():
    images = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(50)]
    data = saved(images[0], "WEBP", save_all=True, append_images=images[1:], lossless=True)
    assert decode_image(data).getpixel((5, 5)) == (0, 0, 0)
