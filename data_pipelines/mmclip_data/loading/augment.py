"""Training-time augmentation: each draw a function of (seed, purpose, view, position), equal for any layout and at a replay.

A view is cropped and resized from the picture, then flipped, recoloured, blurred and solarised, in this order, on bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.ops import pixels as ops
from mmclip.preprocess import ImageSpec
from mmclip.randomness import Stream, uniform, uniform_of_keys
from mmclip_data.loading.decode import Picture, PillowPicture
from mmclip_data.loading.resample import Box

CROP_TRIES = 10
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)  # ITU-R BT.601
BLUR_REACH = 3
"""Deviations that the filter of a blur reaches."""

Draw = Callable[[Stream, int], NDArray[np.float64]]
"""A purpose and a number of draws to doubles in [0, 1), one row a sample."""


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
    hue: float = 0.0
    """Largest turn of the hue, as a share of the circle: 0.5 reaches every hue."""
    colour: float = 1.0
    """Probability that brightness, contrast, saturation and hue change at all; together, as in SimCLR."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Its deviation in pixels of the view, lowest and highest."""
    blur_side: int | None = None
    """Side in pixels that `blur_sigma` is meant for: a view of another side is blurred in proportion. None: as it stands."""
    solarise: float = 0.0
    """Probability that bright pixels are inverted."""
    solarise_threshold: int = 128
    """Grey level from which a pixel counts as bright."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise UserError(f"data.augment.crop_area={self.crop_area}: expected 0 < lowest <= highest <= 1")
        for name in ("crop_aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"data.augment.{name}={getattr(self, name)}: expected 0 < lowest <= highest")
        for name in ("flip", "grayscale", "colour", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.augment.{name}={getattr(self, name)}: expected a probability from 0 to 1")
        if self.blur_side is not None and self.blur_side < 1:
            raise UserError(f"data.augment.blur_side={self.blur_side}: expected a side in pixels, such as 224")


@config
class ViewConfig:
    """Further views of each picture, besides the one that meets the caption."""

    name: str = ""
    """That of views which an objective needs: these are then drawn as said here. Without it they are your own."""
    copies: int = 1
    """How many, each with draws of its own."""
    size: int | None = None
    """Side in pixels; without it that of the model."""
    share: float | None = None
    """In place of `size`: the share of the model's side, which it follows when a run changes it (`[[resolution]]`)."""
    patch: tuple[int, int] = (1, 1)
    """Height and width in pixels whose multiples the sides of a `share` are."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What may happen to them."""

    def __post_init__(self) -> None:
        if self.copies < 1 or (self.size is not None and self.size < 1) or min(self.patch) < 1:
            raise UserError(
                f"data.views: copies={self.copies}, size={self.size} and patch={self.patch} must be at least 1"
            )
        if self.share is not None and (self.size is not None or not 0 < self.share <= 1):
            raise UserError(
                f"data.views: share={self.share} beside size={self.size}: expected a share from above 0 to 1, and no size"
            )

    def sides(self, spec: ImageSpec) -> tuple[int, int]:
        """Height and width in pixels beside a model's."""
        if self.share is None:
            return spec.size if self.size is None else (self.size, self.size)
        height, width = (
            max(1, round(self.share * side / unit)) * unit for side, unit in zip(spec.size, self.patch, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class View:
    """One view as the loader makes it."""

    number: int
    """0 meets the caption."""
    size: tuple[int, int]
    """Height and width in pixels."""
    augment: AugmentConfig


def views_of(spec: ImageSpec, first: AugmentConfig, further: tuple[ViewConfig, ...]) -> list[View]:
    """All views of a picture; a view's draws depend on its number alone."""
    settings = [(spec.size, first)]
    for view in further:
        settings += [(view.sides(spec), view.augment)] * view.copies
    return [View(number, size, augment) for number, (size, augment) in enumerate(settings)]


def crop_alone(view: View) -> View:
    """The view as the loader makes it where a device does the rest."""
    config = view.augment
    return replace(
        view, augment=AugmentConfig(crop_area=config.crop_area, crop_aspect=config.crop_aspect, pad=config.pad)
    )


def augment(
    picture: Picture | Image.Image, spec: ImageSpec, config: AugmentConfig, seed: int, position: int
) -> UInt8[Tensor, "3 height width_px"]:
    """The one view of a picture at `position`, in memory of its own."""
    out = np.empty((*spec.size, 3), dtype=np.uint8)
    picture = PillowPicture(picture) if isinstance(picture, Image.Image) else picture
    fill_view(out, picture, spec, View(0, spec.size, config), seed, position)
    return torch.from_numpy(out).permute(2, 0, 1)


def fill_view(out: NDArray[np.uint8], picture: Picture, spec: ImageSpec, view: View, seed: int, position: int) -> None:
    """Write one view of the picture that stands at `position` into `out` [height, width, 3].

    Raises:
        BadSampleError: the picture cannot be decoded.
    """
    config = view.augment
    width, height = picture.size
    border = (round(config.pad * width), round(config.pad * height))
    box = _crop_box((width + 2 * border[0], height + 2 * border[1]), config, seed, position, view.number)
    picture.part(box, border, out, spec.interpolation)
    if any((config.flip, config.blur, config.solarise, *_colours(config))):
        images = torch.from_numpy(out)[None].permute(0, 3, 1, 2)
        images.copy_(_after_crop(images, config, lambda s, n: uniform(seed, s, position, n, view.number)[None]))


def augment_batch(
    images: UInt8[Tensor, "batch 3 height width_px"],
    keys: Int[Tensor, " batch"],
    config: AugmentConfig,
    view: int = 0,
) -> UInt8[Tensor, "batch 3 height width_px"]:
    """What follows the crop, for a whole batch on its device, drawn from the samples' keys (`ImageTextBatch.keys`).

    A picture comes out the same whatever else is in its batch.
    """
    on_host = keys.cpu().numpy().astype(np.uint64)
    return _after_crop(images, config, lambda stream, count: uniform_of_keys(on_host, stream, count, view))


def _after_crop(
    images: UInt8[Tensor, "batch 3 height width_px"], config: AugmentConfig, draw: Draw
) -> UInt8[Tensor, "batch 3 height width_px"]:
    if config.flip:
        images = ops.flip(images, _below(draw(Stream.FLIP, 1), config.flip, images.device))
    applies = draw(Stream.COLOUR_CHANCE, 1) < config.colour if config.colour < 1 else np.True_
    if any(_colours(config)[:4]):
        images = _recolour(images, config, draw(Stream.COLOUR, 4), applies)
    if config.hue:
        turn = (applies * config.hue * (2 * draw(Stream.HUE, 1) - 1))[:, 0]
        images = ops.shift_hue(images, torch.from_numpy(turn).to(images.device, torch.float32))
    if config.blur:
        scale = 1.0 if config.blur_side is None else min(images.shape[2:]) / config.blur_side
        draws, (low, high) = draw(Stream.BLUR, 2), (scale * sigma for sigma in config.blur_sigma)
        sigma = torch.from_numpy(low + draws[:, 1] * (high - low)).to(images.device, torch.float32)
        radius = min(math.ceil(BLUR_REACH * high), min(images.shape[2:]) - 1)
        images = ops.blur(images, _below(draws, config.blur, images.device), sigma, radius)
    if config.solarise:
        chosen = _below(draw(Stream.SOLARISE, 1), config.solarise, images.device)
        images = ops.solarise(images, chosen, config.solarise_threshold)
    return images


def _below(draws: NDArray[np.float64], probability: float, device: torch.device) -> Bool[Tensor, " batch"]:
    return torch.from_numpy(draws[:, 0] < probability).to(device)


def _colours(config: AugmentConfig) -> tuple[float, ...]:
    return config.brightness, config.contrast, config.saturation, config.grayscale, config.hue


def _recolour(
    images: UInt8[Tensor, "batch 3 height width_px"],
    config: AugmentConfig,
    draws: NDArray[np.float64],
    applies: NDArray[np.bool_] | np.bool_,
) -> UInt8[Tensor, "batch 3 height width_px"]:
    """Blends with black, with the picture's grey and with its mean grey, folded into one affine map of the channels."""
    spread = applies * np.array([config.brightness, config.contrast, config.saturation])
    bright, contrast, saturation = (1 + spread * (2 * draws[:, :3] - 1)).T
    saturation = np.where(draws[:, 3] < config.grayscale, 0.0, saturation)[:, None, None]
    channels = (bright * contrast)[:, None, None] * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    grey = ops.mean_colour(images).to(torch.float64) @ torch.from_numpy(LUMA).to(images.device)
    pivot = torch.from_numpy(bright * (1 - contrast)).to(images.device) * grey
    constants = pivot[:, None, None].expand(-1, 3, 1)
    return ops.recolour(images, torch.cat([torch.from_numpy(channels).to(images.device), constants], 2).float())


def _crop_box(size: tuple[int, int], config: AugmentConfig, seed: int, position: int, view: int = 0) -> Box:
    """A random box of the wanted area and aspect (Szegedy et al. 2015, section 6)."""
    width, height = float(size[0]), float(size[1])
    low, high = (math.log(aspect) for aspect in config.crop_aspect)
    draws = uniform(seed, Stream.CROP, position, 4 * CROP_TRIES, view).tolist()
    for first in range(0, len(draws), 4):
        share, aspect, x, y = draws[first : first + 4]
        area = width * height * (config.crop_area[0] + share * (config.crop_area[1] - config.crop_area[0]))
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
