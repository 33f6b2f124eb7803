"""Colour, blur and their kind on batches of bytes, each picture with its own parameters, on any device.

Every function treats a picture alike whether it comes alone or in a batch, to the last bit: elementwise arithmetic in
fp32 in a fixed order, and integers. So what a loader does to a sample, a device may do to the batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Images = UInt8[Tensor, "batch 3 height width_px"]
PRECISION_BITS = 22
"""Of the fixed-point weights of Pillow's resize, whose mean colour this is."""


def flip(images: Images, chosen: Bool[Tensor, " batch"]) -> Images:
    """Mirror the chosen pictures left to right."""
    return torch.where(_each(chosen), images.flip(3), images)


def mean_colour(images: Images) -> Int[Tensor, "batch 3"]:
    """The rounded mean of the rounded means of rows: what Pillow's box filter makes of a picture as one pixel."""
    rows = _mean(images.sum(3, dtype=torch.int64), images.shape[3])
    return _mean(rows.sum(2), images.shape[2])


def recolour(images: Images, affine: Float[Tensor, "batch 3 4"]) -> Images:
    """Each channel as a weighted sum of the three and a constant, rounded half up and clipped to 0 to 255."""
    red, green, blue = images.to(torch.float32).unbind(1)
    channels = []
    for weights in affine.to(torch.float32).unbind(1):
        r, g, b, constant = (weight[:, None, None] for weight in weights.unbind(1))
        channels.append(red * r + green * g + blue * b + constant + 0.5)
    return torch.stack(channels, 1).clamp(0, 255).to(torch.uint8)


def shift_hue(images: Images, turn: Float[Tensor, " batch"]) -> Images:
    """Turn the hue (HSV) by a share of the whole circle."""
    pixels = images.to(torch.float32)
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(1), pixels.amin(1)
    spread = value - low
    whole = torch.where(spread == 0, 1.0, spread)
    toward = torch.where(
        value == red,
        (green - blue) / whole,
        torch.where(value == green, 2 + (blue - red) / whole, 4 + (red - green) / whole),
    )
    sixth = toward + 6 * turn.to(torch.float32)[:, None, None]
    # The triangle form of HSV to RGB: channel n falls from the value as the hue leaves it.
    channels = [value - spread * _fall((n + sixth) % 6) for n in (5, 3, 1)]
    return _bytes(torch.stack(channels, 1))


def blur(images: Images, chosen: Bool[Tensor, " batch"], sigma: Float[Tensor, " batch"], radius: int) -> Images:
    """Gaussian blur of the chosen pictures, `sigma` in pixels, over 2 `radius` + 1 taps, mirrored at the edges."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    taps = torch.exp(-0.5 * (offsets / sigma.to(torch.float32)[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    pixels = images.to(torch.float32)
    for dim, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        padded, size = F.pad(pixels, padding, mode="reflect"), pixels.shape[dim]
        pixels = torch.zeros_like(pixels)
        for number, tap in enumerate(taps.unbind(1)):
            pixels = pixels + padded.narrow(dim, number, size) * tap[:, None, None, None]
    return torch.where(_each(chosen), _bytes(pixels), images)


def solarise(images: Images, chosen: Bool[Tensor, " batch"], threshold: int) -> Images:
    """Invert what is at least as bright as `threshold` in the chosen pictures."""
    return torch.where(_each(chosen) & (images >= threshold), 255 - images, images)


def _mean(sums: Int[Tensor, "..."], count: int) -> Int[Tensor, "..."]:
    weight = int(0.5 + (1 << PRECISION_BITS) / count)
    return (sums * weight + (1 << PRECISION_BITS - 1)) >> PRECISION_BITS


def _fall(sixth: Float[Tensor, "batch height width_px"]) -> Float[Tensor, "batch height width_px"]:
    return torch.minimum(sixth, 4 - sixth).clamp(0, 1)


def _bytes(pixels: Float[Tensor, "batch 3 height width_px"]) -> Images:
    return (pixels + 0.5).clamp(0, 255).to(torch.uint8)


def _each(values: Bool[Tensor, " batch"]) -> Bool[Tensor, "batch 1 1 1"]:
    return values[:, None, None, None]
