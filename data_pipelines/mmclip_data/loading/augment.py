"""Training-time augmentation: each draw a function of (seed, purpose, position), equal for any layout and at a replay."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.preprocess import RESAMPLING, ImageSpec, pixels_of
from mmclip.randomness import Stream, uniform

CROP_TRIES = 10
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)  # ITU-R BT.601


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
    return pixels_of(_recolour(image, config, seed, position))


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


def _recolour(image: Image.Image, config: AugmentConfig, seed: int, position: int) -> Image.Image:
    """Blends with black, with the picture's grey and with its mean grey, folded into one affine map of the channels."""
    if not (config.brightness or config.contrast or config.saturation or config.grayscale):
        return image
    draws = uniform(seed, Stream.COLOUR, position, 4)
    bright, contrast, saturation = 1 + np.array([config.brightness, config.contrast, config.saturation]) * (
        2 * draws[:3] - 1
    )
    if draws[3] < config.grayscale:
        saturation = 0.0
    channels = bright * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    pivot = bright * (1 - contrast) * float(LUMA @ np.array(mean))
    affine = np.column_stack([channels, np.full(3, pivot)]).ravel()
    return image.convert("RGB", tuple(affine.tolist()))
