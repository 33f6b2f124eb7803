import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from mmclip.preprocess import ImageSpec, to_rgb


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


SIZES = [(64, 64), (200, 100), (37, 91), (33, 32), (500, 31)]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(32, 32), (48, 24)], ids=str)
def test_pixels_equal_open_clips_evaluation_transform(mode: str, interpolation: str, target: tuple[int, int]):
    spec = ImageSpec(
        size=target, resize_mode=mode, interpolation=interpolation, fill_color=7 if mode == "longest" else 0
    )
    stock = image_transform_v2(PreprocessCfg(**spec.to_open_clip()), is_train=False)
    for size in SIZES:
        image = picture(*size)
        ours = spec.normalise(spec.to_uint8(image)[None])[0]
        assert torch.allclose(ours, stock(image), atol=1e-6), size


def test_spec_round_trips_through_open_clips_table():
    spec = ImageSpec(
        size=(48, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), interpolation="bilinear", resize_mode="squash"
    )
    assert ImageSpec.from_open_clip(spec.to_open_clip(), (48, 24)) == spec


def test_every_released_tag_of_open_clip_has_a_spec():
    for arch, tag in open_clip.list_pretrained():
        settings = open_clip.pretrained.get_pretrained_cfg(arch, tag)
        assert ImageSpec.from_open_clip(settings, 224).size == (224, 224)


def test_alpha_is_composed_over_white():
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(half).getpixel((0, 0)) == (127, 127, 127)


def test_transparent_palette_is_composed_over_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.info["transparency"] = 0
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_is_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert [to_rgb(image).getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="mode F"):
        to_rgb(Image.fromarray(np.array([[0.5]], dtype=np.float32)))


def test_orientation_is_applied():
    image = picture(4, 2)
    exif = image.getexif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    assert to_rgb(image).size == (2, 4)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "LA", "P", "RGBA", "YCbCr", "HSV", "LAB"])
def test_common_modes_become_rgb(mode: str):
    assert to_rgb(picture(5, 4).convert(mode) if mode != "LAB" else Image.new("LAB", (5, 4))).mode == "RGB"
