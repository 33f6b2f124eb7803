"""Evaluation-time image preprocessing: deterministic, part of every checkpoint, equal to open_clip's."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_per_channel(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "mean": ("three numbers, one a channel", _is_per_channel),
    "std": ("three numbers above 0, one a channel", lambda value: _is_per_channel(value) and min(value) > 0),
    "interpolation": ("bicubic or bilinear", lambda value: value in list(RESAMPLING)),
    "resize_mode": (f"one of {', '.join(RESIZE_MODES)}", lambda value: value in RESIZE_MODES),
    "fill_color": (
        "a grey level, 0 to 255",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255,
    ),
}
"""By the name of a setting of open_clip's, what it may be: in words, and as a check."""


@config
class ImageSpec:
    """The pixels a model expects."""

    size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, float, float] = OPENAI_MEAN
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, float, float] = OPENAI_STD
    """Per channel, of pixels in [0, 1]."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Resampling filter, always antialiased."""
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """shortest: fit the short side and crop the centre; longest: fit the long side and pad; squash: ignore the aspect."""
    fill_color: int = 0
    """Grey level of the padding of `longest`."""

    @classmethod
    def from_open_clip(cls, settings: Mapping[str, Any], image_size: int | tuple[int, int]) -> "ImageSpec":
        """Read open_clip's `preprocess_cfg`; `image_size` is the tower's own, which wins as it does there.

        Raises:
            UserError: a setting is none that open_clip has.
        """
        size = (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
        known: dict[str, Any] = {name: settings[name] for name in EXPECTED if settings.get(name) is not None}
        if known.get("interpolation") == "random":  # open_clip evaluates such models with bicubic
            known["interpolation"] = "bicubic"
        for name, value in known.items():
            expected, is_sound = EXPECTED[name]
            if not is_sound(value):
                raise UserError(
                    f"preprocess_cfg.{name}={value!r:.80}: expected {expected}, as the weights were trained with"
                )
        known |= {name: tuple(map(float, known[name])) for name in ("mean", "std") if name in known}
        return cls(size=size, **known)

    def to_open_clip(self) -> dict[str, Any]:
        """The `preprocess_cfg` table of `open_clip_config.json`."""
        return {
            "size": list(self.size),
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill_color,
        }

    def to_uint8(self, image: Image.Image) -> UInt8[Tensor, "3 height width_px"]:
        """Resize and crop one picture as open_clip's evaluation transform does, and stop before the floats."""
        return pixels_of(_centred(self._resized(to_rgb(image)), self.size, self.fill_color))

    def normalise(
        self, images: UInt8[Tensor, "batch 3 height width_px"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch 3 height width_px"]:
        """Scale to [0, 1], subtract the mean and divide by the deviation, on the device that holds `images`."""
        mean = torch.tensor(self.mean, dtype=dtype, device=images.device)[:, None, None]
        std = torch.tensor(self.std, dtype=dtype, device=images.device)[:, None, None]
        return (images.to(dtype) / 255 - mean) / std

    def _resized(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        resampling = RESAMPLING[self.interpolation]
        if self.resize_mode == "squash":
            target = (width, height)
        elif self.resize_mode == "shortest" and height == width:
            # The long side is cut to an integer, not rounded: torchvision's rule, which trained models saw.
            short = min(image.size)
            target = tuple(height if side == short else int(height * side / short) for side in image.size)
        else:
            fits = [image.height / height, image.width / width]
            ratio = max(fits) if self.resize_mode == "longest" else min(fits)
            target = (round(image.width / ratio), round(image.height / ratio))
            if self.resize_mode == "shortest":  # open_clip knows only bicubic for a size that is not square
                resampling = Image.Resampling.BICUBIC
        return image.resize((max(1, target[0]), max(1, target[1])), resampling)


def pixels_of(image: Image.Image) -> UInt8[Tensor, "3 height width_px"]:
    """The pixels of an RGB picture, channels first in shape and last in memory, as they were decoded."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB by one documented rule: orientation applied, alpha composed over white, deep greys scaled and never clipped."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 and 32 bits hold 16-bit greys; Pillow's own conversion would clip them at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"mode {image.mode} with values {grey.min()} to {grey.max()}: expected 0 to 65535")
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("mode F (floating point pixels) has no defined range: convert the picture to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _centred(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Crop around the centre; what `image` lacks is padded with `fill`."""
    height, width = size
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)), (fill, fill, fill))
        canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
