"""`hard_negatives`: InfoNCE in which similar mismatches weigh more (Robinson et al. 2021, with pairs as in Radford et al.)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.given import needed_labels
from mmclip.ops.directions import directions
from mmclip.ops.hard_negatives import hard_negative_infonce
from mmclip.ops.tiles import compute_dtype


@config
class HardNegativesConfig:
    """Symmetric InfoNCE with hard negative weights."""

    type: Literal["hard_negatives"] = "hard_negatives"
    beta: float = 0.5
    """How much more a similar mismatch weighs: its weight is e to the power of beta x its logit. 0 is InfoNCE."""
    tau_plus: float = 0.0
    """Chance that a mismatch of the batch is none (Chuang et al. 2020): what such ones add is taken off."""
    duplicates: Literal["ignored", "negative"] = "ignored"
    """What another sample of the batch is that has the same caption or the same picture."""

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and 0 <= self.tau_plus < 1):
            raise UserError(
                f"objective.beta={self.beta}, objective.tau_plus={self.tau_plus}: "
                "expected a weight of 0 or more, such as 0.5, and a chance below 1, such as 0.01"
            )

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pair_labels=self.duplicates == "ignored")

    def build(self, shape: ModelShape | None = None) -> "HardNegativesObjective":
        """The objective of this configuration."""
        return HardNegativesObjective(self)


class HardNegativesObjective(Objective):
    """Each picture must find its caption among those of the global batch, and each caption its picture."""

    def __init__(self, settings: HardNegativesConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean over both directions, and the mean cosine of the pairs."""
        labels = needed_labels(context) if self.needs.pair_labels else None
        both = directions(outputs.image_embed, outputs.text_embed, labels)
        scale = outputs.logit_scale.to(compute_dtype(both[0].cosine, outputs.logit_scale))
        weights = self.settings.beta, self.settings.tau_plus
        losses = [hard_negative_infonce(scale * d.cosine, d.positive, d.negative, scale, *weights) for d in both]
        own = (outputs.image_embed * outputs.text_embed).detach().sum(1).mean()
        return ObjectiveOutput(loss=(losses[0] + losses[1]) / 2, report={"positive_similarity": own})
