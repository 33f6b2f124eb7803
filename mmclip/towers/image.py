"""Image towers of open_clip, by kind: a forward that computes only what is pooled, and one over some of the patches."""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmclip.towers.block import takes_rows
from mmclip.towers.patches import Grid, embed_patches
from mmclip.towers.text import first
from mmclip.towers.trunk import Work, all_rows, pooled_rows


@runtime_checkable
class ImageEncoder(Protocol):
    """Runs one kind of image tower."""

    @property
    def why_whole_last_block(self) -> str | None:
        """Why the last block computes all patches; None where the pooled token is enough."""
        ...

    @property
    def why_all_patches(self) -> str | None:
        """Why no patch can be left out; None where the tower runs on those that are kept."""
        ...

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        ...

    @property
    def patch_size(self) -> Grid:
        """Height and width of a patch in pixels."""
        ...

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        """Embeddings, not normalised."""
        ...

    def encode_patches(
        self, patches: Float[Tensor, "batch kept 3 _ _"], kept: Int[Tensor, "batch kept"], work: Work
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings of pictures of which only some patches, numbered row by row, are there."""
        ...


def image_encoder(backbone: Any) -> ImageEncoder:
    """The encoder of a model's image tower; what is of no known kind runs as stock open_clip runs it."""
    visual = backbone.visual
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type in ("tok", "avg"):
        return NativeImage(visual)
    if isinstance(visual, TimmModel) and type(visual.trunk) in (TimmVisionTransformer, Eva):
        return TimmImage(visual)
    return StockImage(backbone)


class NativeImage:
    """open_clip's own vision transformer with a class token or with averaged patches."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.grid: Grid = visual.grid_size
        self.patch_size: Grid = visual.patch_size

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

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        patches = self.visual.conv1(pixels).flatten(2).transpose(1, 2)
        return self._finished(patches, self.visual.positional_embedding[1:].to(patches.dtype), work)

    def encode_patches(
        self, patches: Float[Tensor, "batch kept 3 _ _"], kept: Int[Tensor, "batch kept"], work: Work
    ) -> Float[Tensor, "batch embed"]:
        embedded = embed_patches(patches, self.visual.conv1.weight, self.visual.conv1.bias)
        position = F.embedding(kept, self.visual.positional_embedding[1:])
        return self._finished(embedded, position.to(embedded.dtype), work)

    def _finished(self, patches: Tensor, position: Tensor, work: Work) -> Float[Tensor, "batch embed"]:
        visual = self.visual
        first_token = (visual.class_embedding + visual.positional_embedding[0]).to(patches.dtype)
        x = torch.cat([first_token.expand(len(patches), 1, -1), patches + position], dim=1)
        batch, tokens, _ = x.shape
        rows, groups = visual.ln_pre(x).flatten(0, 1), ((batch, tokens),)
        blocks = visual.transformer.resblocks
        if visual.pool_type == "tok":
            start = torch.arange(0, batch * tokens, tokens, device=x.device)
            pooled = visual.ln_post(pooled_rows(blocks, rows, groups, torch.stack([start, start * 0]), work))
        else:
            after = all_rows(blocks, rows, groups, work).unflatten(0, (batch, tokens))[:, 1:]
            norm = visual.ln_post
            pooled = norm(after.mean(dim=1)) if visual.final_ln_after_pool else norm(after).mean(dim=1)
        return pooled if visual.proj is None else pooled @ visual.proj


class TimmImage:
    """timm's vision transformer or EVA behind open_clip's adapter."""

    why_whole_last_block = "blocks of the image tower are those of timm"

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.trunk = visual.trunk

    @property
    def grid(self) -> Grid:
        return self.trunk.patch_embed.grid_size

    @property
    def patch_size(self) -> Grid:
        return self.trunk.patch_embed.patch_size

    @property
    def why_all_patches(self) -> str | None:
        embed = self.trunk.patch_embed
        if type(embed) is not PatchEmbed or type(embed.proj) is not nn.Conv2d:
            return f"the patch embedding of the image tower mixes patches ({type(embed).__name__})"
        if self.trunk.dynamic_img_size or getattr(self.trunk, "rope_mixed", False):
            return "the image tower computes its positions from the picture"
        return None

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        return self.visual(pixels)

    def encode_patches(
        self, patches: Float[Tensor, "batch kept 3 _ _"], kept: Int[Tensor, "batch kept"], work: Work
    ) -> Float[Tensor, "batch embed"]:
        trunk, embed = self.trunk, self.trunk.patch_embed
        x = embed.norm(embed_patches(patches, embed.proj.weight, embed.proj.bias))
        x = trunk.norm_pre(trunk.pos_drop(self._placed(x, kept)))
        rope: dict[str, Any] = {"rope": self._rotations(kept)} if isinstance(trunk, Eva) else {}
        for block in trunk.blocks:
            again = work.activation_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False, **rope) if again else block(x, **rope)
        return self.visual.head(trunk.forward_head(trunk.norm(x)))

    def _placed(self, x: Tensor, kept: Tensor) -> Tensor:
        """With class and register tokens before the patches, and the positions of those that are kept."""
        trunk = self.trunk
        prefix = [t.expand(len(x), -1, -1) for t in (trunk.cls_token, trunk.reg_token) if t is not None]
        if trunk.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        position = trunk.pos_embed[0]
        fixed = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        x = x + F.embedding(kept, position[fixed:])
        if not prefix:
            return x
        before = torch.cat(prefix, dim=1)
        return torch.cat([before + position[:fixed] if fixed else before, x], dim=1)

    def _rotations(self, kept: Tensor) -> Tensor | None:
        """Of the kept patches, with an axis for the heads."""
        rope = self.trunk.rope
        if rope is None:
            return None
        whole = rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=self.grid)
        return whole[kept][:, None]


class StockImage:
    """An image tower that only open_clip's own forward computes: a convolutional network, or an attentional pooler."""

    grid = patch_size = (0, 0)

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        visual = backbone.visual
        kind = type(getattr(visual, "trunk", visual)).__name__
        self.why_whole_last_block = self.why_all_patches = f"the image tower is of another kind ({kind})"

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        return first(self.backbone.encode_image(pixels))

    def encode_patches(self, patches: Tensor, kept: Tensor, work: Work) -> Float[Tensor, "batch embed"]:
        raise AssertionError(self.why_all_patches)
