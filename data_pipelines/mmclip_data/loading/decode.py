"""From the bytes of a picture to RGB, with caps that hold before any pixel is decoded.

JPEG goes through libjpeg-turbo, which can decode at a half, a quarter or an eighth of the size and lets other threads run
meanwhile. Everything else, and every JPEG that it has a doubt about, goes through Pillow, whose verdict is final: a
picture that Pillow refuses is bad. `docs/pictures.md` has the policy for alpha, palettes, deep and odd modes.
"""

import io
from typing import Protocol, runtime_checkable

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mmclip.errors import BadSampleError
from mmclip.preprocess import RESAMPLING, to_rgb
from mmclip_data.loading.resample import Box, Filter, resample
from mmclip_data.loading.scratch import Scratch

FORMATS = ("JPEG", "PNG", "WEBP")
"""Decoders that may run: each one more is one more surface for hostile files."""
MAX_BYTES = 32 << 20
MAX_PIXELS = 50_000_000
MAX_ASPECT = 100
SCALES = 3
"""Halvings that the JPEG decoder can do while it decodes."""
WHITE = 255
SIMPLE_SPACES = ("Gray", "YCbCr", "RGB")
"""Colour spaces that both decoders read alike; CMYK and YCCK are Pillow's."""
START_OF_SCAN = 0xDA
ORIENTATION = 0x0112
ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""EXIF's numbers: whether to swap the axes, then to turn round x, then y."""


@runtime_checkable
class Picture(Protocol):
    """A picture of known size whose pixels are decoded when a part of it is wanted."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        ...

    def part(self, box: Box, border: tuple[int, int], out: NDArray[np.uint8], interpolation: Filter) -> None:
        """Fill `out` [height, width, 3] with what lies in `box`, antialiased.

        The box counts from the corner of a white border, `border` (width, height) pixels on each side.

        Raises:
            BadSampleError: the picture cannot be decoded after all.
        """
        ...


class PillowPicture:
    """Decoded at once, resized by Pillow."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def part(self, box: Box, border: tuple[int, int], out: NDArray[np.uint8], interpolation: Filter) -> None:
        image = ImageOps.expand(self.image, border, fill=(WHITE,) * 3) if any(border) else self.image
        height, width = out.shape[:2]
        out[:] = np.asarray(image.resize((width, height), RESAMPLING[interpolation], box=box))


class JpegPicture:
    """Decoded at the smallest scale that still holds the wanted size; parts at one scale share one decode."""

    def __init__(self, data: bytes, stored: tuple[int, int], orientation: int, scratch: Scratch) -> None:
        self.data = data
        self.scratch = scratch
        self.stored = stored
        self.swapped, *self.turned = ORIENTATIONS.get(orientation, ORIENTATIONS[1])
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._whole: PillowPicture | None = None

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.stored
        return (height, width) if self.swapped else (width, height)

    def part(self, box: Box, border: tuple[int, int], out: NDArray[np.uint8], interpolation: Filter) -> None:
        left, top, right, bottom = box
        shrink = min((right - left) / out.shape[1], (bottom - top) / out.shape[0])
        halvings = min(SCALES, max(1, int(shrink)).bit_length() - 1)
        try:
            pixels = self._at_scale(halvings)
        except ValueError:  # cut, or with a flaw that may be harmless: Pillow tells them apart
            self._whole = self._whole or PillowPicture(decode_image(self.data))
            return self._whole.part(box, border, out, interpolation)
        x, y = self._origin(pixels, halvings)
        x, y, scale = x - border[0] / 2**halvings, y - border[1] / 2**halvings, 2.0**-halvings
        scaled = (left * scale + x, top * scale + y, right * scale + x, bottom * scale + y)
        resample(pixels, scaled, out, interpolation, self.scratch, WHITE if any(border) else None)

    def _at_scale(self, halvings: int) -> NDArray[np.uint8]:
        if halvings not in self._decoded:
            width, height = (-(-side // 2**halvings) for side in self.stored)
            buffer = self.scratch.take(f"decoded {halvings}", (height, width, 3))
            pixels = simplejpeg.decode_jpeg(self.data, min_width=width, min_height=height, buffer=buffer)
            if self.swapped:
                pixels = pixels.transpose(1, 0, 2)
            turn_x, turn_y = self.turned
            self._decoded[halvings] = pixels[:: -1 if turn_y else 1, :: -1 if turn_x else 1]
        return self._decoded[halvings]

    def _origin(self, pixels: NDArray[np.uint8], halvings: int) -> tuple[float, float]:
        """Where the picture begins in its scaled pixels: the last of a row may be half outside, and be turned to the front."""
        ends = (pixels.shape[1] - self.size[0] / 2**halvings, pixels.shape[0] - self.size[1] / 2**halvings)
        x, y = (end if turned else 0.0 for end, turned in zip(ends, self.turned, strict=True))
        return x, y


def open_picture(data: bytes, scratch: Scratch | None = None) -> Picture:
    """The picture, its caps checked; with a `scratch` that others use too, it is valid until the next one is opened.

    Raises:
        BadSampleError: not a readable JPEG, PNG or WebP, or larger or narrower than the caps.
    """
    if data.startswith(b"\xff\xd8\xff") and len(data) <= MAX_BYTES:
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return PillowPicture(decode_image(data))
        stored = int(width), int(height)
        _check_size(*stored, MAX_PIXELS)
        if space in SIMPLE_SPACES:
            return JpegPicture(data, stored, _orientation(data), scratch or Scratch())
    return PillowPicture(decode_image(data))


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB by Pillow alone: orientation applied, alpha over white, first frame of an animation.

    Raises:
        BadSampleError: not a readable JPEG, PNG or WebP, or larger or narrower than the caps.
    """
    if len(data) > MAX_BYTES:
        raise BadSampleError(f"picture of {len(data)} bytes: expected at most {MAX_BYTES}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            return to_rgb(image)
    except (BadSampleError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # whose own words hold an address, another one at each replay
        raise BadSampleError(
            f"picture of {len(data)} bytes: UnidentifiedImageError: not a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        ) from error
    except Exception as error:  # Pillow's decoders raise some ten kinds, SyntaxError and struct.error among them
        raise BadSampleError(f"picture of {len(data)} bytes: {type(error).__name__}: {error}") from error


def _orientation(data: bytes) -> int:
    """EXIF's (or XMP's) orientation; Pillow reads it, but only where there may be one, for it takes its time."""
    end = _end_of_head(data)
    if data.find(b"Exif\0\0", 0, end) < 0 and data.find(b"tiff:Orientation", 0, end) < 0:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # as above: whatever a damaged header makes Pillow raise
        raise BadSampleError(f"picture of {len(data)} bytes: {type(error).__name__}: {error}") from error


def _end_of_head(data: bytes) -> int:
    """Where the compressed pixels of a JPEG begin: from segment to segment; where there is none, the end of the data."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == START_OF_SCAN:
            return position
        position += 2 + (data[position + 2] << 8) + data[position + 3]
    return len(data)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadSampleError(f"picture of {width} x {height} pixels: expected at most {max_pixels} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSampleError(f"picture of {width} x {height} pixels: expected an aspect of at most {MAX_ASPECT} to 1")
