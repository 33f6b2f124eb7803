"""From the bytes of a picture to RGB, with caps that hold before any pixel is decoded."""

import io

from PIL import Image

from mmclip.errors import BadSampleError
from mmclip.preprocess import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP")
"""Decoders that may run: each one more is one more surface for hostile files."""
MAX_PIXELS = 50_000_000
MAX_ASPECT = 100


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB: orientation applied, alpha over white, first frame of an animation.

    Raises:
        BadSampleError: not a readable JPEG, PNG or WebP, or larger or narrower than the caps.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            return to_rgb(image)
    except (BadSampleError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise some ten kinds, SyntaxError and struct.error among them
        raise BadSampleError(f"picture of {len(data)} bytes: {type(error).__name__}: {error}") from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadSampleError(f"picture of {width} x {height} pixels: expected at most {max_pixels} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSampleError(f"picture of {width} x {height} pixels: expected an aspect of at most {MAX_ASPECT} to 1")
