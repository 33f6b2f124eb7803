"""The two towers of a model by kind, under the settings of a run: all of `TwoTower` that needs open_clip to be imported."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmclip.batch import ViewOutput
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.towers.abilities import TowerAbilities, abilities, refuse_impossible
from mmclip.towers.backbone import build_backbone, is_channels_last
from mmclip.towers.blocks import blocks_of, image_tower, recompute, text_tower
from mmclip.towers.frozen import FrozenPart, TowerName, frozen_part
from mmclip.towers.image import image_encoder
from mmclip.towers.image_native import NativeImage
from mmclip.towers.locking import lock_image, lock_text, locked_parts, rest
from mmclip.towers.patches import Grid, gather_patches, kept_patches
from mmclip.towers.resolution import image_grid, refuse_sizes, resize_context, resize_images
from mmclip.towers.settings import TowersConfig
from mmclip.towers.text import HuggingFaceText, NativeText, text_encoder
from mmclip.towers.text_groups import Lengths
from mmclip.towers.trunk import Work

SHAPES = 64
"""Shapes for which one block is compiled before torch gives up: groups times widths, training and not."""


class Encoders:
    """A backbone and how it is run.

    Raises:
        UserError: this open_clip cannot build `model_cfg`.
    """

    def __init__(self, model_cfg: dict[str, Any]) -> None:
        self.backbone: Any = build_backbone(model_cfg)
        self.settings = TowersConfig()
        self.locked: list[nn.Module] = []
        self.frozen: dict[TowerName, FrozenPart] = {}
        """The parts that features were asked of: known then, because a copy of the towers may have other parts that learn."""
        self.work = Work()
        self.choose(model_cfg["text_cfg"].get("context_length", 77))

    def choose(self, context_length: int) -> None:
        """Look at both towers again, after one has changed its shape."""
        self.image = image_encoder(self.backbone)
        self.text = text_encoder(self.backbone, context_length)

    def abilities(self) -> TowerAbilities:
        return abilities(self.backbone, self.image, self.text)

    def set_up(self, settings: TowersConfig, patch_dropout: float) -> None:
        """Lock, compile and compute as `settings` say.

        Raises:
            UserError: the towers cannot do what was asked for.
        """
        refuse_impossible(settings, self.abilities(), patch_dropout)
        self.settings = settings
        self.work = Work(
            pooled_last_block=settings.pooled_last_block != "off",
            activation_checkpointing=settings.activation_checkpointing,
            static_shapes=settings.compile,
        )
        towers = (image_tower(self.backbone), text_tower(self.backbone))
        self._adapt()
        self._lock()
        for tower in towers if settings.activation_checkpointing else ():
            recompute(tower)
        for tower in towers if settings.compile else ():
            compile_blocks(tower, settings.compile_backend)

    def _adapt(self) -> None:
        if self.settings.adapters is not None:
            from mmclip.towers.lora import add_adapters

            rows = {"image": isinstance(self.image, NativeImage), "text": isinstance(self.text, NativeText)}
            add_adapters(self.backbone, self.settings.adapters, rows)

    def _lock(self) -> None:
        if self.settings.lock_image:
            lock_image(self.backbone, self.settings.unlocked_image_groups)
        if self.settings.lock_text:
            lock_text(self.backbone, self.settings.unlocked_text_groups)
        if self.settings.lock_image or self.settings.lock_text or self.settings.adapters is not None:
            self.locked = locked_parts(self.backbone)

    def rest_locked_parts(self) -> None:
        """Put locked parts into evaluation mode, after the whole model was put into training mode."""
        for part in self.locked:
            rest(part, self.settings.freeze_batch_norm)
        if self.settings.rest_batch_norm:
            for part in self.backbone.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()

    def moving_batch_norms(self) -> list[str]:
        """Names of the batch norms whose statistics follow the batches of a training run."""
        if self.settings.rest_batch_norm:
            return []
        resting = self.locked if self.settings.freeze_batch_norm else []
        frozen = {part for locked in resting for part in locked.modules()}
        parts = self.backbone.named_modules()
        return [name for name, part in parts if isinstance(part, _BatchNorm) and part not in frozen]

    def encode_image(self, pixels: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch embed"]:
        """Of normalised pixels, in the memory layout of the weights."""
        if is_channels_last(self.backbone):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.image.encode(pixels, self.work)

    def encode_view(
        self,
        pixels: Float[Tensor, "batch 3 height width_px"],
        kept: Int[Tensor, "batch patch"] | None,
        embeds: bool,
        tokens: bool,
    ) -> ViewOutput:
        """Of normalised pixels, of which only the kept patches are read."""
        if is_channels_last(self.backbone):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if kept is None:
            found = self.image.features(pixels, self.work, tokens)
        else:
            patches = gather_patches(pixels, kept, self.image.grid, self.image.patch_size)
            found = self.image.features_of_patches(patches, kept, self.work, tokens)
        return ViewOutput(found.pooled, self.image.project(found.pooled) if embeds else None, found.tokens, kept)

    def encode_some_patches(
        self,
        images: UInt8[Tensor, "batch 3 height width_px"],
        keys: Int[Tensor, " batch"],
        dropped: float,
        spec: ImageSpec,
    ) -> Float[Tensor, "batch embed"]:
        """Of raw pixels, of which those of dropped patches are not even normalised."""
        grid = self.image.grid
        kept = kept_patches(keys, grid[0] * grid[1], dropped)
        patches = gather_patches(images, kept, grid, self.image.patch_size)
        pixels = spec.normalise(patches.flatten(0, 1), self.backbone.logit_scale.dtype)
        found = self.image.features_of_patches(pixels.unflatten(0, kept.shape), kept, self.work)
        return self.image.project(found.pooled)

    def encode_text(self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None) -> Float[Tensor, "batch embed"]:
        """Of tokens that may be narrower than the context length."""
        return self.text.encode(tokens, lengths, self.settings.text_groups, self.work)

    def freeze(self, tower: TowerName, embed_dim: int) -> FrozenPart:
        """Note what of a tower stays as it is in this run.

        Raises:
            UserError: more than its head learns.
        """
        self.frozen[tower] = frozen_part(self.backbone, tower, embed_dim)
        return self.frozen[tower]

    def image_features(self, pixels: Float[Tensor, "batch 3 height width_px"]) -> Float[Tensor, "batch feature"]:
        """What comes out of the frozen part of the image tower."""
        if self.frozen["image"].head is None:
            return F.normalize(self.encode_image(pixels).float(), dim=-1)
        if is_channels_last(self.backbone):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.backbone.visual.trunk(pixels)

    def text_features(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None
    ) -> Float[Tensor, "batch feature"]:
        """What comes out of the frozen part of the text tower."""
        if self.frozen["text"].head is None:
            return F.normalize(self.encode_text(tokens, lengths).float(), dim=-1)
        assert isinstance(self.text, HuggingFaceText), "no other has a head of its own"
        return self.text.encode(tokens, lengths, self.settings.text_groups, self.work, projected=False)

    def embed_features(
        self, tower: TowerName, features: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings, not normalised but where they came so, of features of the frozen part."""
        head = self.frozen[tower].head if tower in self.frozen else None
        return features if head is None else head(features)

    @property
    def image_grid(self) -> Grid | None:
        """Rows and columns of patches, where the image tower has them."""
        return image_grid(self.backbone)

    def refuse_sizes(self, sizes: Sequence[Grid]) -> None:
        """Refuse input sizes that the image tower cannot take; it stays as it is."""
        refuse_sizes(self.backbone, sizes)

    def resize_images(self, size: Grid) -> dict[str, Tensor]:
        """Another input size; returns the parameters that it replaced."""
        before = resize_images(self.backbone, size)
        self.choose(self.text.context_length)
        return before

    def resize_context(self, length: int) -> dict[str, Tensor]:
        """Another context length; returns the parameters that it replaced."""
        before = resize_context(self.backbone, length)
        self.choose(length)
        return before


def compile_blocks(tower: nn.Module, backend: str) -> None:
    """Compile each block for itself: blocks of one tower share their code, so that each shape is compiled once.

    Raises:
        UserError: torch knows no such backend.
    """
    import torch._dynamo  # seconds, for those alone who compile

    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise UserError(f"towers.compile_backend={backend!r}: expected one of {', '.join(known)}")
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    for block in blocks_of(tower):
        block.compile(backend=backend, dynamic=False)
