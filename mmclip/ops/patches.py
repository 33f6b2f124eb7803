"""Patches of a picture as rows, and how well a decoder tells them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.ops.tiles import compute_dtype

Patches = Float[Tensor, "batch patch width"]


def patches_of(pixels: Float[Tensor, "batch 3 height width_px"], size: tuple[int, int]) -> Patches:
    """The pixels of each patch, row by row; those beyond the last whole patch belong to none."""
    height, width = size
    rows, columns = pixels.shape[2] // height, pixels.shape[3] // width
    whole = pixels[:, :, : rows * height, : columns * width]
    tiles = whole.unflatten(2, (rows, height)).unflatten(4, (columns, width))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def normalised_patches(patches: Patches) -> Patches:
    """Each patch with mean 0 and variance 1 (MAE, He et al. 2022, section 3, "Reconstruction target")."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + 1e-6)


def squared_error(found: Patches, target: Patches) -> Float[Tensor, "batch patch"]:
    """Mean over the numbers of each patch, in fp32 or fp64."""
    dtype = compute_dtype(found, target)
    return (found.to(dtype) - target.to(dtype)).square().mean(dim=2)


def smooth_error(found: Patches, target: Patches) -> Float[Tensor, "batch patch"]:
    """Half the square below a distance of 1, beyond it a line (data2vec, Baevski et al. 2022, section 3.3)."""
    dtype = compute_dtype(found, target)
    return F.smooth_l1_loss(found.to(dtype), target.to(dtype), reduction="none").mean(dim=2)


def mean_of_hidden(
    errors: Float[Tensor, "batch patch"], kept: Int[Tensor, "batch kept"] | None
) -> Float[Tensor, " batch"]:
    """Mean over the patches of each sample that were not `kept`; over all where None is given."""
    if kept is None:
        return errors.mean(dim=1)
    hidden = torch.ones_like(errors).scatter(1, kept, 0)
    return (errors * hidden).sum(dim=1) / (errors.shape[1] - kept.shape[1])
