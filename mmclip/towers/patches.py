"""Patch dropout that drops before anything is computed (FLIP, Li et al. 2023), by the key of each sample.

The same patches are dropped for any number of ranks or micro-batches, and at replay: which ones is a function of the key.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.ops.philox import ranks_of_keys
from mmclip.randomness import Stream

Grid = tuple[int, int]


def kept_patches(keys: Int[Tensor, " batch"], patches: int, dropped: float, view: int = 0) -> Int[Tensor, "batch kept"]:
    """Which patches stay, in ascending order: of each sample as many, each set of that size equally likely."""
    kept = max(1, int(patches * (1 - dropped)))  # open_clip's count
    ranks = ranks_of_keys(keys, Stream.PATCH_MASK, patches, view)
    return ranks.argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values


def gather_patches(images: Tensor, kept: Int[Tensor, "batch kept"], grid: Grid, patch_size: Grid) -> Tensor:
    """The pixels of the kept patches, [batch kept channel height width_px]; those of others are never read.

    Pixels beyond the last whole patch belong to none, as in a convolution whose stride is the patch.
    """
    (rows, columns), (height, width) = grid, patch_size
    whole = images[:, :, : rows * height, : columns * width]
    tiles = whole.unflatten(2, (rows, height)).unflatten(4, (columns, width)).permute(0, 2, 4, 1, 3, 5)
    batch = torch.arange(len(images), device=images.device)[:, None]
    return tiles[batch, kept // columns, kept % columns]


def embed_patches(
    patches: Float[Tensor, "batch kept channel height width_px"], convolution: Tensor, bias: Tensor | None
):
    """The convolution of a patch embedding as a matrix product: [batch kept width]."""
    return torch.nn.functional.linear(patches.flatten(2), convolution.flatten(1), bias)
