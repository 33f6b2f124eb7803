import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmclip.errors import BadSampleError
from mmclip_data.loading.decode import MAX_BYTES, JpegPicture, PillowPicture, decode_image, open_picture
from mmclip_data.loading.scratch import Scratch


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Shapes of all sizes with edges, as photographs have, and a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([160 * x / width, 160 * y / height, np.full((height, width), 90.0)], -1)
    for _ in range(40):
        centre, radius = rng.uniform(0, (width, height)), rng.uniform(0.02, 0.25) * width
        pixels[np.hypot(x - centre[0], y - centre[1]) < radius] = rng.uniform(0, 255, 3)
    small = Image.fromarray(pixels.astype(np.uint8)).reduce(2).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(small) + rng.normal(0, 3, (height, width, 1))).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **{"quality": 92, **options})
    return out.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-6, np.mean((a.astype(np.float64) - b) ** 2)))


def part(data: bytes, box: tuple, size: tuple[int, int] = (224, 224), border: tuple = (0, 0)) -> np.ndarray:
    out = np.zeros((*size, 3), dtype=np.uint8)
    open_picture(data).part(box, border, out, "bicubic")
    return out


def exact(data: bytes, box: tuple, size: tuple[int, int] = (224, 224)) -> np.ndarray:
    """Pillow's full decode and its bicubic resize of the same fractional box."""
    return np.asarray(decode_image(data).resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def crops(width: int, height: int, count: int, seed: int = 0) -> list[tuple[float, float, float, float]]:
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        w, h = width * rng.uniform(0.9, 1), height * rng.uniform(0.9, 1)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        boxes.append((x, y, x + w, y + h))
    return boxes


@pytest.mark.parametrize(("side", "median", "worst"), [(256, 50, 44), (512, 38, 34), (1024, 38, 34)])
def test_crops_are_those_of_a_full_decode_by_pillow(side: int, median: float, worst: float):
    """Unscaled the two differ by rounding alone; decoded at a half or a quarter they keep 38 dB."""
    data = jpeg(scene(side, side))
    found = sorted(psnr(part(data, box), exact(data, box)) for box in crops(side, side, 25))
    assert found[len(found) // 2] > median
    assert found[0] > worst


def test_crops_are_not_shifted():
    """Snapping the box to whole pixels of the scaled picture would cost six decibels; the mean shift must vanish."""
    data = jpeg(scene(512, 512))
    for box in crops(512, 512, 8, seed=1):
        moved = (box[0] + 1, box[1] + 1, box[2] + 1, box[3] + 1)
        expected = exact(data, box).astype(np.float64)
        slope = exact(data, tuple(min(512, edge) for edge in moved)) - expected
        shift = ((part(data, box) - expected) * slope).sum() / (slope**2).sum()
        assert abs(shift) < 0.12, "in source pixels"


@pytest.mark.parametrize("side", [224, 300, 447, 448, 900, 1792, 2000])
def test_decoder_never_goes_below_the_wanted_size(side: int):
    picture = JpegPicture(jpeg(Image.new("RGB", (side, side), (9, 99, 200))), (side, side), 1, Scratch())
    picture.part((0.0, 0.0, float(side), float(side)), (0, 0), np.zeros((224, 224, 3), np.uint8), "bicubic")
    ((halvings, pixels),) = picture._decoded.items()
    assert min(pixels.shape[:2]) >= 224
    assert halvings == min(3, int(np.log2(side / 224)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(600, 451), (451, 600)])
def test_orientation_is_applied_as_pillow_does(orientation: int, size: tuple[int, int]):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(scene(*size), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
    picture = open_picture(data)
    assert isinstance(picture, JpegPicture)
    assert picture.size == upright
    for box in crops(*upright, 3):
        assert psnr(part(data, box, (200, 180)), exact(data, box, (200, 180))) > 34


def test_xmp_orientation_counts_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(scene(60, 40), xmp=xmp)
    assert open_picture(data).size == decode_image(data).size == (40, 60)


@pytest.mark.parametrize(
    ("options", "mode", "kind"),
    [
        ({"subsampling": "4:4:4"}, "RGB", JpegPicture),
        ({"progressive": True}, "RGB", JpegPicture),
        ({}, "L", JpegPicture),
        ({"keep_rgb": True}, "RGB", JpegPicture),
    ],
    ids=["4:4:4", "progressive", "grey", "RGB"],
)
def test_each_kind_of_jpeg_looks_as_in_pillow(options: dict, mode: str, kind: type):
    data = jpeg(scene(500, 400).convert(mode), **options)
    assert isinstance(open_picture(data), kind)
    assert psnr(part(data, (10.3, 5.5, 480.7, 390.2)), exact(data, (10.3, 5.5, 480.7, 390.2))) > 34


def test_cmyk_is_left_to_pillow():
    data = jpeg(scene(50, 40).convert("CMYK"))
    assert isinstance(open_picture(data), PillowPicture)
    assert np.array_equal(part(data, (1.5, 0.0, 40.0, 39.5)), exact(data, (1.5, 0.0, 40.0, 39.5)))


@pytest.mark.parametrize("percent", [1, 10, 30, 50, 70, 90, 99])
def test_truncated_jpeg_is_bad_at_every_scale(percent: int):
    data = jpeg(scene(512, 512))
    cut = data[: len(data) * percent // 100]
    for size in ((224, 224), (60, 60)):
        with pytest.raises(BadSampleError):
            part(cut, (0.0, 0.0, 512.0, 512.0), size)


def test_harmless_flaw_that_pillow_accepts_is_accepted():
    """Bytes between the segments make libjpeg warn; the strict decoder refuses them and Pillow decides."""
    data = jpeg(scene(300, 300))
    end = data.rindex(b"\xff\xd9")
    odd = data[:end] + b"\x00\x00\x00" + data[end:]
    assert psnr(part(odd, (0.0, 0.0, 300.0, 300.0)), exact(odd, (0.0, 0.0, 300.0, 300.0))) > 34


def test_border_is_white_and_the_picture_in_its_place():
    data = jpeg(Image.new("RGB", (400, 400)))
    view = part(data, (0.0, 0.0, 600.0, 600.0), (60, 60), border=(100, 100))
    assert view[:9].min() > 250
    assert view[12:48, 12:48].max() < 5
    assert view[-9:].min() > 250


def test_border_looks_as_pillows():
    image = scene(500, 400)
    data = jpeg(image)
    padded = ImageOps.expand(decode_image(data), (50, 40), fill=(255, 255, 255))
    for box in crops(600, 480, 6):
        expected = np.asarray(padded.resize((128, 128), Image.Resampling.BICUBIC, box=box))
        assert psnr(part(data, box, (128, 128), border=(50, 40)), expected) > 33


@pytest.mark.parametrize("size", [(40, 40), (200, 300)])
def test_small_pictures_are_enlarged_as_by_pillow(size: tuple[int, int]):
    data = jpeg(scene(*size))
    for box in crops(*size, 6):
        assert psnr(part(data, box), exact(data, box)) > 40


def test_step_of_a_whole_pixel_leaves_the_box_where_it_is():
    """No grid comes near such a box, so Pillow resizes."""
    data = jpeg(scene(256, 256))
    box = (10.5, 10.5, 234.5, 234.5)
    assert psnr(part(data, box), exact(data, box)) > 50


def test_too_many_bytes_are_refused_before_decoding():
    data = jpeg(scene(64, 64))
    with pytest.raises(BadSampleError, match=f"expected at most {MAX_BYTES}"):
        open_picture(data + bytes(MAX_BYTES))


def test_caps_hold_before_a_jpeg_is_decoded():
    data = bytearray(jpeg(scene(64, 64)))
    place = data.index(b"\xff\xc0") + 5
    for height, width, reason in ((60_000, 60_000, "expected at most 50000000"), (10, 6_000, "aspect of at most 100")):
        data[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        with pytest.raises(BadSampleError, match=reason):
            open_picture(bytes(data))


def test_pictures_with_a_shared_scratch_do_not_disturb_finished_parts():
    scratch, results = Scratch(), []
    files = [jpeg(scene(400, 300, seed)) for seed in range(3)]
    for data in files:
        out = np.zeros((100, 100, 3), np.uint8)
        open_picture(data, scratch).part((0.5, 0.5, 399.0, 299.0), (0, 0), out, "bicubic")
        results.append(out)
    for data, out in zip(files, results, strict=True):
        assert np.array_equal(out, part(data, (0.5, 0.5, 399.0, 299.0), (100, 100)))
