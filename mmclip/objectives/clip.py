"""`clip`: symmetric InfoNCE between paired images and captions."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.contrastive import ContrastiveConfig, mean_output, pair_options, pictures_of
from mmclip.ops.infonce import infonce


@config
class ClipConfig(ContrastiveConfig):
    """Symmetric InfoNCE (CLIP, Radford et al. 2021)."""

    type: Literal["clip"] = "clip"

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pair_labels=self.duplicates != "negative", embeds_of=self.image_view)

    def build(self, shape: ModelShape | None = None) -> "ClipObjective":
        """The objective of this configuration."""
        return ClipObjective(self)


class ClipObjective(Objective):
    """Each image must find its caption among those of the global batch, and each caption its image."""

    def __init__(self, settings: ClipConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, in-batch top-1 and the mean similarities of positives and of negatives."""
        options = vars(pair_options(self.settings, context))
        rest = outputs.text_embed, outputs.logit_scale
        return mean_output([infonce(image, *rest, **options) for image in pictures_of(self.settings, outputs)])
