"""`siglip`: pairwise sigmoid loss between images and captions."""

from typing import Literal

from torch import nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ObjectiveContext, ObjectiveNeeds
from mmclip.ops.sigmoid import sigmoid_loss


@config
class SiglipConfig:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023); the towers start at scale 10 and bias -10 unless told otherwise."""

    type: Literal["siglip"] = "siglip"

    def build(self) -> "SiglipObjective":
        """The objective of this configuration."""
        return SiglipObjective()


class SiglipObjective(nn.Module):
    """Each pair of an image and a caption is its own binary decision."""

    needs = ObjectiveNeeds(logit_bias=True)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, and the share of images whose own caption is the nearest in the batch."""
        assert outputs.logit_bias is not None, "the training module checks that the towers own a bias"
        loss, top_1 = sigmoid_loss(outputs.image_embed, outputs.text_embed, outputs.logit_scale, outputs.logit_bias)
        return ObjectiveOutput(loss=loss, report={"in_batch_top_1": top_1})

    def on_optimizer_step(self, context: ObjectiveContext) -> None:
        """Nothing: this objective has no state."""
