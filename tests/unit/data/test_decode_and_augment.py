import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.errors import BadSampleError
from mmclip.preprocess import ImageSpec, pixels_of
from mmclip_data.loading.augment import AugmentConfig, augment
from mmclip_data.loading.decode import decode_image

SPEC = ImageSpec(size=(24, 24))


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, np.full((height, width), 90)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_common_formats_decode(fmt: str):
    options = {"lossless": True} if fmt == "WEBP" else {}
    image = decode_image(encoded(gradient(), fmt, **options))
    assert image.mode == "RGB"
    difference = pixels_of(image).float() - pixels_of(gradient()).float()
    assert difference.abs().mean() < (3 if fmt == "JPEG" else 1e-9)


def png_of_size(width: int, height: int) -> bytes:
    """A header that declares a size, with hardly any pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"<html>404</html>", "UnidentifiedImageError"),
        (encoded(gradient(), "GIF"), "UnidentifiedImageError"),
        (encoded(gradient(), "JPEG")[:400], "OSError"),
        (encoded(gradient(), "PNG")[:-40], "OSError|SyntaxError"),
        (png_of_size(9_000, 8_000), "9000 x 8000 pixels: expected at most 50000000"),
        (png_of_size(60_000, 60_000), "60000"),
        (png_of_size(2_000, 10), "aspect"),
    ],
    ids=["empty", "web page", "GIF", "cut JPEG", "cut PNG", "many pixels", "bomb", "ribbon"],
)
def test_unreadable_or_hostile_pictures_are_bad_samples(data: bytes, reason: str):
    with pytest.raises(BadSampleError, match=reason):
        decode_image(data)


def test_augmentation_is_a_function_of_seed_and_position():
    config = AugmentConfig(
        crop_area=(0.2, 0.9), flip=0.5, brightness=0.4, contrast=0.3, saturation=0.5, grayscale=0.3, pad=0.1
    )
    views = [augment(gradient(), SPEC, config, seed, position) for seed in (0, 1) for position in (0, 1, 2)]
    again = [augment(gradient(), SPEC, config, seed, position) for seed in (0, 1) for position in (0, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))
    assert len({view.numpy().tobytes() for view in views}) == 6


def test_a_purpose_does_not_move_the_others():
    plain = AugmentConfig(crop_area=(0.3, 0.9))
    jittered = AugmentConfig(crop_area=(0.3, 0.9), flip=1.0)
    for position in range(5):
        mirrored = augment(gradient(), SPEC, jittered, 0, position).flip(2)
        assert torch.equal(mirrored, augment(gradient(), SPEC, plain, 0, position))


def test_whole_picture_is_only_resized():
    config = AugmentConfig(crop_area=(1.0, 1.0), crop_aspect=(1.5, 1.5))
    expected = pixels_of(gradient().resize((24, 24), Image.Resampling.BICUBIC))
    assert (augment(gradient(), SPEC, config, 0, 0).int() - expected.int()).abs().max() <= 1


def test_crops_cover_the_wanted_areas_and_aspects():
    """Red rises with x and green with y, so the corner pixels tell where a crop lies."""
    config = AugmentConfig(crop_area=(0.25, 0.5))
    areas = []
    for position in range(200):
        view = augment(gradient(256, 256), ImageSpec(size=(64, 64)), config, 0, position).float()
        width, height = (view[0, 32, -1] - view[0, 32, 0]) / 255, (view[1, -1, 32] - view[1, 0, 32]) / 255
        areas.append(float(width * height) * (64 / 63) ** 2)
    assert 0.23 < min(areas) < 0.28
    assert 0.46 < max(areas) < 0.53


def test_crop_of_a_very_long_picture_falls_back_to_the_centre():
    config = AugmentConfig(crop_area=(0.9, 1.0), crop_aspect=(0.9, 1.1))
    view = augment(gradient(2000, 40), SPEC, config, 0, 0)
    assert 115 < view[0].float().mean() < 140


def test_border_is_white():
    view = augment(
        Image.new("RGB", (50, 50)), SPEC, AugmentConfig(pad=0.5, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0)), 0, 0
    )
    assert view[:, 0, 0].tolist() == [255, 255, 255]
    assert view[:, 12, 12].tolist() == [0, 0, 0]


def test_grayscale_removes_colour():
    view = augment(gradient(), SPEC, AugmentConfig(grayscale=1.0), 0, 0)
    assert torch.equal(view[0], view[1])


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_impossible_crop_areas_are_refused(area: tuple[float, float]):
    with pytest.raises(ValueError, match="crop_area"):
        AugmentConfig(crop_area=area)


ENHANCERS = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}


@pytest.mark.parametrize(("name", "enhancer"), ENHANCERS.items())
def test_recolouring_equals_pillows_enhancers(name: str, enhancer: str):
    from PIL import ImageEnhance

    from mmclip.randomness import Stream, uniform

    whole = {"crop_area": (1.0, 1.0), "crop_aspect": (1.5, 1.5)}
    plain = augment(gradient(), SPEC, AugmentConfig(**whole), 0, 7)
    factor = 1 + 0.5 * (2 * uniform(0, Stream.COLOUR, 7, 4)[list(ENHANCERS).index(name)] - 1)
    picture = Image.fromarray(plain.permute(1, 2, 0).numpy())
    expected = pixels_of(getattr(ImageEnhance, enhancer)(picture).enhance(factor))
    got = augment(gradient(), SPEC, AugmentConfig(**whole, **{name: 0.5}), 0, 7)
    assert (got.int() - expected.int()).abs().max() <= 2
    assert (got.int() - plain.int()).abs().max() > 5
