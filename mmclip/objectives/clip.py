"""`clip`: symmetric InfoNCE between paired images and captions."""

from typing import Literal

from torch import nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ObjectiveContext, ObjectiveNeeds
from mmclip.ops.infonce import infonce


@config
class ClipConfig:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021)."""

    type: Literal["clip"] = "clip"

    def build(self) -> "ClipObjective":
        """The objective of this configuration."""
        return ClipObjective()


class ClipObjective(nn.Module):
    """Each image must find its caption among those of the global batch, and each caption its image."""

    needs = ObjectiveNeeds()

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, and the share of images whose own caption is the nearest in the batch."""
        loss, top_1 = infonce(outputs.image_embed, outputs.text_embed, outputs.logit_scale)
        return ObjectiveOutput(loss=loss, report={"in_batch_top_1": top_1})

    def on_optimizer_step(self, context: ObjectiveContext) -> None:
        """Nothing: this objective has no state."""
