"""Training-time augmentation: each draw a function of (seed, purpose, position), equal for any layout and at a replay."""

import math

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.preprocess import RESAMPLING, ImageSpec
from mmclip.randomness import Stream, uniform

CROP_TRIES = 10
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@config
class AugmentConfig:
    """What may happen to a training picture; the defaults are CLIP's (a crop, and nothing else)."""

    crop_area: tuple[float, float] = (0.9, 1.0)
    """Share of the picture's area that the random crop keeps, lowest and highest."""
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the crop, lowest and highest."""
    flip: float = 0.0
    """Probability of a horizontal flip; captions that name left or right then lie."""
    pad: float = 0.0
    """White border before the crop, as a fraction of each side, so that crops also shift and shrink the picture."""
    brightness: float = 0.0
    """Largest relative change of brightness."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    grayscale: float = 0.0
    """Probability of losing all colour."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise UserError(f"data.augment.crop_area={self.crop_area}: expected 0 < lowest <= highest <= 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise UserError(f"data.augment.crop_aspect={self.crop_aspect}: expected 0 < lowest <= highest")


def augment(
    image: Image.Image, spec: ImageSpec, config: AugmentConfig, seed: int, position: int
) -> UInt8[Tensor, "3 height width_px"]:
    """Crop, resize and recolour the picture that stands at `position`."""
    if config.pad:
        border = (round(config.pad * image.width), round(config.pad * image.height))
        image = ImageOps.expand(image, border, fill=(255, 255, 255))
    height, width = spec.size
    box = _crop_box(image.size, config, seed, position)
    image = image.resize((width, height), RESAMPLING[spec.interpolation], box=box)
    if config.flip and uniform(seed, Stream.FLIP, position, 1)[0] < config.flip:
        image = ImageOps.mirror(image)
    pixels = _recolour(np.asarray(image), config, seed, position)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _crop_box(
    size: tuple[int, int], config: AugmentConfig, seed: int, position: int
) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) of the wanted area and aspect (Szegedy et al. 2015, section 6)."""
    width, height = float(size[0]), float(size[1])
    draws = uniform(seed, Stream.CROP, position, 4 * CROP_TRIES).reshape(CROP_TRIES, 4).tolist()
    low, high = (math.log(aspect) for aspect in config.crop_aspect)
    for area, aspect, x, y in draws:
        area = width * height * (config.crop_area[0] + area * (config.crop_area[1] - config.crop_area[0]))
        ratio = math.exp(low + aspect * (high - low))
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = x * (width - crop_width), y * (height - crop_height)
            return left, top, min(width, left + crop_width), min(height, top + crop_height)
    # No box of that shape fits a very long picture: the largest of the nearest shape, in the centre.
    ratio = min(max(width / height, config.crop_aspect[0]), config.crop_aspect[1])
    crop_width, crop_height = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def _recolour(pixels: NDArray[np.uint8], config: AugmentConfig, seed: int, position: int) -> NDArray[np.uint8]:
    """Blend with black, with the mean grey and with the grey picture: Pillow's enhancers, in one pass over small arrays."""
    if not (config.brightness or config.contrast or config.saturation or config.grayscale):
        return pixels
    draws = uniform(seed, Stream.COLOUR, position, 4)
    bright, contrast, saturation = 1 + np.array([config.brightness, config.contrast, config.saturation]) * (
        2 * draws[:3] - 1
    )
    values = pixels.astype(np.float32) * np.float32(bright)
    grey = values @ LUMA
    values = grey[..., None] + np.float32(0.0 if draws[3] < config.grayscale else saturation) * (
        values - grey[..., None]
    )
    mean = grey.mean()
    return np.clip(mean + np.float32(contrast) * (values - mean) + 0.5, 0, 255).astype(np.uint8)
