"""`siglip`: pairwise sigmoid loss between images and captions."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.contrastive import ContrastiveConfig, mean_output, pair_options, pictures_of
from mmclip.ops.sigmoid import sigmoid


@config
class SiglipConfig(ContrastiveConfig):
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023); the towers start at scale 10 and bias -10 unless told otherwise."""

    type: Literal["siglip"] = "siglip"

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(logit_bias=True, pair_labels=self.duplicates != "negative", embeds_of=self.image_view)

    def build(self, shape: ModelShape | None = None) -> "SiglipObjective":
        """The objective of this configuration."""
        return SiglipObjective(self)


class SiglipObjective(Objective):
    """Each pair of an image and a caption is its own binary decision."""

    def __init__(self, settings: SiglipConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, in-batch top-1 and the mean similarities of positives and of negatives."""
        assert outputs.logit_bias is not None, "the training module checks that the towers own a bias"
        options = vars(pair_options(self.settings, context))
        rest = outputs.text_embed, outputs.logit_scale, outputs.logit_bias
        return mean_output([sigmoid(image, *rest, **options) for image in pictures_of(self.settings, outputs)])
