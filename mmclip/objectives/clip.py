"""`clip`: symmetric InfoNCE between paired images and captions."""

from typing import Literal

from torch import nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.contrastive import ContrastiveConfig, output_of, pair_options
from mmclip.ops.infonce import infonce


@config
class ClipConfig(ContrastiveConfig):
    """Symmetric InfoNCE (CLIP, Radford et al. 2021)."""

    type: Literal["clip"] = "clip"

    def build(self) -> "ClipObjective":
        """The objective of this configuration."""
        return ClipObjective(self)


class ClipObjective(nn.Module):
    """Each image must find its caption among those of the global batch, and each caption its image."""

    def __init__(self, settings: ClipConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = ObjectiveNeeds(pair_labels=settings.duplicates != "negative")

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, in-batch top-1 and the mean similarities of positives and of negatives."""
        options = vars(pair_options(self.settings, context))
        return output_of(infonce(outputs.image_embed, outputs.text_embed, outputs.logit_scale, **options))

    def on_optimizer_step(self, context: ObjectiveContext) -> None:
        """Nothing: this objective has no state."""
