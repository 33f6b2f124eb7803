"""open_clip's own vision transformer, with a class token or with averaged patches."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmclip.towers.block import takes_rows
from mmclip.towers.image_features import ImageFeatures
from mmclip.towers.patches import Grid, embed_patches
from mmclip.towers.resolution import resized_grid
from mmclip.towers.trunk import Work, all_rows, pooled_rows


class NativeImage:
    """Computes only what is pooled, unless the features of patches are asked for."""

    why_no_tokens = why_one_size = None

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.grid: Grid = visual.grid_size
        self.patch_size: Grid = visual.patch_size

    @property
    def pooled_width(self) -> int:
        return self.visual.class_embedding.shape[0]

    @property
    def why_whole_last_block(self) -> str | None:
        if self.visual.pool_type == "avg":
            return "the image tower averages its patches"
        block = self.visual.transformer.resblocks[-1]
        return None if takes_rows(block) else f"blocks of the image tower are of another kind ({type(block).__name__})"

    @property
    def why_all_patches(self) -> str | None:
        kind = type(self.visual.conv1)
        return None if kind is nn.Conv2d else f"the image tower's patch embedding is of another kind ({kind.__name__})"

    def features(
        self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work, tokens: bool = False
    ) -> ImageFeatures:
        patches = self.visual.conv1(pixels)
        position = self._positions((patches.shape[2], patches.shape[3]))
        patches = patches.flatten(2).transpose(1, 2)
        return self._finished(patches, position.to(patches.dtype), work, tokens)

    def features_of_patches(
        self,
        patches: Float[Tensor, "batch kept 3 _ _"],
        kept: Int[Tensor, "batch kept"],
        work: Work,
        tokens: bool = False,
    ) -> ImageFeatures:
        embedded = embed_patches(patches, self.visual.conv1.weight, self.visual.conv1.bias)
        position = F.embedding(kept, self.visual.positional_embedding[1:])
        return self._finished(embedded, position.to(embedded.dtype), work, tokens)

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch embed"]:
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        return self.project(self.features(pixels, work).pooled)

    def _positions(self, grid: Grid) -> Float[Tensor, "patch width"]:
        own = self.visual.positional_embedding[1:]
        return own if grid == self.grid else resized_grid(own, self.grid, grid)

    def _finished(self, patches: Tensor, position: Tensor, work: Work, tokens: bool) -> ImageFeatures:
        visual = self.visual
        first_token = (visual.class_embedding + visual.positional_embedding[0]).to(patches.dtype)
        x = torch.cat([first_token.expand(len(patches), 1, -1), patches + position], dim=1)
        batch, length, _ = x.shape
        rows, groups = visual.ln_pre(x).flatten(0, 1), ((batch, length),)
        blocks = visual.transformer.resblocks
        if visual.pool_type == "tok" and not tokens:
            start = torch.arange(0, batch * length, length, device=x.device)
            return ImageFeatures(
                visual.ln_post(pooled_rows(blocks, rows, groups, torch.stack([start, start * 0]), work))
            )
        after, norm = all_rows(blocks, rows, groups, work).unflatten(0, (batch, length)), visual.ln_post
        if visual.pool_type == "tok":
            normed = norm(after)
            return ImageFeatures(normed[:, 0], normed[:, 1:])
        after = after[:, 1:]
        if not visual.final_ln_after_pool:
            normed = norm(after)
            return ImageFeatures(normed.mean(dim=1), normed if tokens else None)
        return ImageFeatures(norm(after.mean(dim=1)), norm(after) if tokens else None)
