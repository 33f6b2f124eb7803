"""Which kind an image tower is of; what is of no known kind runs as stock open_clip runs it."""

from typing import Any

from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor

from mmclip.towers.image_features import ImageEncoder, ImageFeatures
from mmclip.towers.image_native import NativeImage
from mmclip.towers.image_timm import TimmImage, TimmNetwork
from mmclip.towers.text import first
from mmclip.towers.trunk import Work


def image_encoder(backbone: Any) -> ImageEncoder:
    """The encoder of a model's image tower."""
    visual = backbone.visual
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type in ("tok", "avg"):
        return NativeImage(visual)
    if isinstance(visual, TimmModel) and not hasattr(visual.head, "pool"):  # which would read a map of features
        return (TimmImage if type(visual.trunk) in (TimmVisionTransformer, Eva) else TimmNetwork)(visual)
    return StockImage(backbone)


class StockImage:
    """An image tower that only open_clip's own forward computes, such as one with an attentional pooler.

    Nothing before its embedding can be had, so that is what stands for the pooled features.
    """

    grid = patch_size = (0, 0)

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        visual = backbone.visual
        kind = type(getattr(visual, "trunk", visual)).__name__
        self.why_whole_last_block = self.why_all_patches = f"the image tower is of another kind ({kind})"
        self.why_no_tokens = self.why_one_size = self.why_all_patches
        self.pooled_width: int = visual.output_dim if hasattr(visual, "output_dim") else -1

    def features(
        self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work, tokens: bool = False
    ) -> ImageFeatures:
        assert not tokens, self.why_no_tokens
        return ImageFeatures(self.encode(pixels, work))

    def features_of_patches(self, patches: Tensor, kept: Tensor, work: Work, tokens: bool = False) -> ImageFeatures:
        raise AssertionError(self.why_all_patches)

    def project(self, pooled: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        return pooled

    def encode(self, pixels: Float[Tensor, "batch 3 height width_px"], work: Work) -> Float[Tensor, "batch embed"]:
        return first(self.backbone.encode_image(pixels))
