"""`distill`: a larger teacher's similarities beside the pairs' own (CLIP-KD, Yang et al. 2024, section 3.3)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.contrastive import ContrastiveConfig, output_of, pair_options
from mmclip.ops.distill import distill
from mmclip.ops.infonce import infonce


@config
class DistillConfig(ContrastiveConfig):
    """InfoNCE on the pairs, and the cross-entropy of the softmax over the batch under a teacher's."""

    type: Literal["distill"] = "distill"
    teacher: str = ""
    """The teacher: a source of weights, as `model.init` takes. It must read captions with the same tokenizer."""
    weight: float = 0.5
    """Share of the teacher's part in the loss; the rest is the pairs'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_view is not None:
            raise UserError("objective.image_view: the teacher of 'distill' sees the picture itself; leave it out")
        if not 0 < self.weight <= 1:
            raise UserError(f"objective.weight={self.weight}: expected a share above 0, at most 1, such as 0.5")

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pair_labels=self.duplicates != "negative", teacher=self.teacher)

    def build(self, shape: ModelShape | None = None) -> "DistillObjective":
        """The objective of this configuration."""
        return DistillObjective(self)


class DistillObjective(Objective):
    """Which caption fits a picture how well is learnt from the teacher, and that its own fits best from the pair."""

    def __init__(self, settings: DistillConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The weighted sum; both parts are reported."""
        assert context.teacher is not None, "the training module has a teacher where the objective needs one"
        options, taught, share = vars(pair_options(self.settings, context)), context.teacher, self.settings.weight
        embeds = outputs.image_embed, outputs.text_embed, outputs.logit_scale
        own = output_of(infonce(*embeds, **options))
        from_teacher = distill(
            *embeds,
            taught.image_embed,
            taught.text_embed,
            taught.logit_scale,
            implementation=self.settings.implementation,
            tile=self.settings.tile,
        )
        report = {**own.report, "pairs_loss": own.loss.detach(), "teacher_loss": from_teacher.detach()}
        return ObjectiveOutput(loss=(1 - share) * own.loss + share * from_teacher, report=report)
