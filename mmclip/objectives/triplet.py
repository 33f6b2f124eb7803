"""`triplet`: a pair must be more similar than its hardest mismatch, by a margin (VSE++, Faghri et al. 2018)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.given import needed_labels
from mmclip.ops.directions import directions
from mmclip.ops.triplet import Mining, triplet


@config
class TripletConfig:
    """Triplet loss over cosines of pictures and captions, with mining from the global batch."""

    type: Literal["triplet"] = "triplet"
    margin: float = 0.2
    """By how much a pair must be more similar than a mismatch."""
    mining: Mining = "hardest"
    """The most similar mismatch; the most similar of those that are less similar than the pair; or every one."""
    duplicates: Literal["ignored", "negative"] = "ignored"
    """What another sample of the batch is that has the same caption or the same picture."""

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 2:
            raise UserError(f"objective.margin={self.margin}: expected a difference of cosines above 0, such as 0.2")

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(logit_scale=False, pair_labels=self.duplicates == "ignored")

    def build(self, shape: ModelShape | None = None) -> "TripletObjective":
        """The objective of this configuration."""
        return TripletObjective(self)


class TripletObjective(Objective):
    """Each picture against mismatched captions, and each caption against mismatched pictures."""

    def __init__(self, settings: TripletConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean over both directions, and the share of triplets within the margin."""
        labels = needed_labels(context) if self.needs.pair_labels else None
        found = [
            triplet(one.cosine, one.positive, one.negative, self.settings.margin, self.settings.mining)
            for one in directions(outputs.image_embed, outputs.text_embed, labels)
        ]
        (to_text, text_share), (to_image, image_share) = found
        report = {"within_margin": (text_share + image_share).detach() / 2}
        return ObjectiveOutput(loss=(to_text + to_image) / 2, report=report)
