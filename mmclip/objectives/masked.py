"""`masked`: tell the patches of a picture that the tower did not get (MAE, He et al. 2022), or that came with noise."""

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import (
    ModelShape,
    MomentumNeed,
    Objective,
    ObjectiveContext,
    ObjectiveNeeds,
    Pixels,
    ViewNeed,
)
from mmclip.objectives.parts.checks import at_least, positive
from mmclip.objectives.parts.decoder import PatchDecoder
from mmclip.ops.patches import mean_of_hidden, normalised_patches, patches_of, smooth_error, squared_error
from mmclip.ops.tiles import compute_dtype

VIEW = "masked"


@config
class MaskedConfig:
    """Reconstruction by a small decoder, which is no part of the released model."""

    type: Literal["masked"] = "masked"
    corruption: Literal["mask", "noise"] = "mask"
    """`noise` is a denoising autoencoder (Vincent et al. 2008): no patch is hidden, all are reconstructed."""
    share: float = 0.75
    """Of the patches that are hidden."""
    noise: float = 0.5
    """Deviation of the noise, beside pixels whose own is about 1."""
    target: Literal["pixels", "teacher"] = "pixels"
    """`teacher`: tokens that a slowly following tower makes of the whole picture (data2vec, Baevski et al. 2022)."""
    momentum: float = 0.996
    """Share of the teacher that stays at the first step; it rises to `momentum_end` by a cosine."""
    momentum_end: float = 1.0
    width: int = 512
    """Of the decoder."""
    depth: int = 4
    """Blocks of the decoder."""

    def __post_init__(self) -> None:
        at_least(1, depth=self.depth)
        positive(noise=self.noise)
        if self.width < 4 or self.width % 4 or self.width > 32 and self.width % 32:
            raise UserError(
                f"objective.width={self.width}: expected a multiple of 32 (or 4 to 28 in fours), such as 512"
            )
        if not 0 < self.share < 1:
            raise UserError(f"objective.share={self.share}: expected a share above 0 and below 1, such as 0.75")

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        masked, noise = (self.share, 0.0) if self.corruption == "mask" else (0.0, self.noise)
        view = ViewNeed(VIEW, style="crop", crop_area=(0.2, 1.0), tokens=True, masked=masked, noise=noise)
        momentum = MomentumNeed(self.momentum, self.momentum_end, (VIEW,)) if self.target == "teacher" else None
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=(view,), momentum=momentum)

    def build(self, shape: ModelShape) -> "MaskedObjective":
        """The objective of this configuration; a `UserError` where the image tower has no patches."""
        return MaskedObjective(self, shape)


class MaskedObjective(Objective):
    """Each sample is for itself, so the loss is a plain mean."""

    def __init__(self, settings: MaskedConfig, shape: ModelShape) -> None:
        super().__init__()
        if shape.patch_size is None:
            raise UserError("objective 'masked' needs an image tower with patches: any ViT, such as preset tiny-vit-64")
        self.settings = settings
        self.needs = settings.needs
        self.patch_size: tuple[int, int] = shape.patch_size
        (height, width), (patch_height, patch_width) = shape.image_size, shape.patch_size
        grid = height // patch_height, width // patch_width
        out = 3 * patch_height * patch_width if settings.target == "pixels" else shape.pooled
        masks = settings.corruption == "mask"
        self.decoder = PatchDecoder(shape.pooled, settings.width, settings.depth, out, grid, masks)

    def local(self, outputs: TowerOutput, pixels: Pixels, momentum: TowerOutput | None) -> Mapping[str, Tensor]:
        """The mean error of each sample's hidden patches."""
        (view,) = outputs.views[VIEW]
        assert view.tokens is not None, "asked for in `needs`"
        found = self.decoder(view.tokens, view.kept)
        if self.settings.target == "pixels":
            target = normalised_patches(patches_of(pixels[VIEW][0], self.patch_size))
            return {VIEW: mean_of_hidden(squared_error(found, target), view.kept)}
        assert momentum is not None, "the training module has a teacher where the objective needs one"
        tokens = momentum.views[VIEW][0].tokens
        assert tokens is not None, "the teacher gives what the student was asked for"
        target = F.layer_norm(tokens.detach().to(compute_dtype(tokens)), tokens.shape[-1:])
        return {VIEW: mean_of_hidden(smooth_error(found, target), view.kept)}

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean over the batch."""
        return ObjectiveOutput(loss=outputs.local[VIEW].mean())
