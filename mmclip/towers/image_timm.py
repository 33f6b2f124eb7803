"""Image towers of timm behind open_clip's adapter: vision transformers patch by patch, other networks as a whole."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmclip.towers.image_features import ImageFeatures
from mmclip.towers.patches import Grid, embed_patches, gather_patches
from mmclip.towers.resolution import resized_grid
from mmclip.towers.trunk import Work


class TimmNetwork:
    """Any network of timm that pools before the adapter's projection, such as a convolutional one."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.trunk = visual.trunk

    @property
    def grid(self) -> Grid:
        return (0, 0)

    @property
    def patch_size(self) -> Grid:
        return (0, 0)

    @property
    def why_one_size(self) -> str | None:
        fixed = getattr(getattr(self.trunk, "patch_embed", None), "grid_size", None)
        return self._other_kind if fixed is not None else None

    @property
    def _other_kind(self) -> str | None:
        return f"the image tower is of another kind ({type(self.trunk).__name__})"

    @property
    def why_whole_last_block(self) -> str | None:
        return self._other_kind

    @property
    def why_all_patches(self) -> str | None:
        return self._other_kind

    @property
    def why_no_tokens(self) -> str | None:
        return self._other_kind

    @property
    def pooled_width(self) -> int:
        return getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features

    def features(
        self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work, tokens: bool = False
    ) -> ImageFeatures:
        assert not tokens, self.why_no_tokens
        return ImageFeatures(self.trunk.forward_head(self.trunk.forward_features(pixels), pre_logits=True))

    def features_of_patches(self, patches: Tensor, kept: Tensor, work: Work, tokens: bool = False) -> ImageFeatures:
        raise AssertionError(self.why_all_patches)

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch embed"]:
        return self.visual.head(self.trunk.get_classifier()(pooled))

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        return self.visual(pixels)


class TimmImage(TimmNetwork):
    """timm's vision transformer or EVA."""

    @property
    def why_no_tokens(self) -> str | None:
        return None

    @property
    def why_whole_last_block(self) -> str | None:
        return "blocks of the image tower are those of timm"

    @property
    def grid(self) -> Grid:
        return self.trunk.patch_embed.grid_size

    @property
    def patch_size(self) -> Grid:
        return self.trunk.patch_embed.patch_size

    @property
    def why_one_size(self) -> str | None:
        return self.why_all_patches

    @property
    def why_all_patches(self) -> str | None:
        embed = self.trunk.patch_embed
        if type(embed) is not PatchEmbed or type(embed.proj) is not nn.Conv2d:
            return f"the patch embedding of the image tower mixes patches ({type(embed).__name__})"
        if self.trunk.dynamic_img_size or getattr(self.trunk, "rope_mixed", False):
            return "the image tower computes its positions from the picture"
        return None

    def features(
        self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work, tokens: bool = False
    ) -> ImageFeatures:
        grid = (pixels.shape[2] // self.patch_size[0], pixels.shape[3] // self.patch_size[1])
        if grid == self.grid:
            return self._pooled(self.trunk.forward_features(pixels), tokens)
        every = torch.arange(grid[0] * grid[1], device=pixels.device).expand(len(pixels), -1)
        return self._of_patches(gather_patches(pixels, every, grid, self.patch_size), every, grid, work, tokens)

    def features_of_patches(
        self,
        patches: Float[Tensor, "batch kept 3 _ _"],
        kept: Int[Tensor, "batch kept"],
        work: Work,
        tokens: bool = False,
    ) -> ImageFeatures:
        return self._of_patches(patches, kept, self.grid, work, tokens)

    def _of_patches(self, patches: Tensor, kept: Tensor, grid: Grid, work: Work, tokens: bool) -> ImageFeatures:
        trunk, embed = self.trunk, self.trunk.patch_embed
        x = embed.norm(embed_patches(patches, embed.proj.weight, embed.proj.bias))
        x = trunk.norm_pre(trunk.pos_drop(self._placed(x, kept, grid)))
        rope: dict[str, Any] = {"rope": self._rotations(kept, grid)} if isinstance(trunk, Eva) else {}
        for block in trunk.blocks:
            again = work.activation_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False, **rope) if again else block(x, **rope)
        return self._pooled(trunk.norm(x), tokens)

    def _pooled(self, x: Tensor, tokens: bool) -> ImageFeatures:
        pooled = self.trunk.forward_head(x, pre_logits=True)
        return ImageFeatures(pooled, x[:, self.trunk.num_prefix_tokens :] if tokens else None)

    def _placed(self, x: Tensor, kept: Tensor, grid: Grid) -> Tensor:
        """With class and register tokens before the patches, and the positions of those that are kept."""
        trunk = self.trunk
        prefix = [t.expand(len(x), -1, -1) for t in (trunk.cls_token, trunk.reg_token) if t is not None]
        if trunk.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        position = trunk.pos_embed[0]
        fixed = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        of_patches = position[fixed:] if grid == self.grid else resized_grid(position[fixed:], self.grid, grid)
        x = x + F.embedding(kept, of_patches)
        if not prefix:
            return x
        before = torch.cat(prefix, dim=1)
        return torch.cat([before + position[:fixed] if fixed else before, x], dim=1)

    def _rotations(self, kept: Tensor, grid: Grid) -> Tensor | None:
        """Of the kept patches, with an axis for the heads."""
        rope = self.trunk.rope
        if rope is None:
            return None
        fixed = hasattr(rope, "feat_shape") and grid == self.grid
        whole = rope.get_embed() if fixed else rope.get_embed(shape=grid)
        return whole[kept][:, None]
