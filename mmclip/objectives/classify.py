"""`classify`: cross-entropy of a linear head over classes (LP-FT, Kumar et al. 2022, whose head starts from a probe)."""

from typing import Literal

import torch.nn.functional as F

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds


@config
class ClassifyConfig:
    """Cross-entropy over classes; the image tower and the head learn, and the text tower has to be locked."""

    type: Literal["classify"] = "classify"
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes, as torch's `cross_entropy` defines it."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"objective.label_smoothing={self.label_smoothing}: expected at least 0 and below 1, such as 0.1"
            )

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(logit_scale=False, class_head=True)

    def build(self, shape: ModelShape | None = None) -> "ClassifyObjective":
        """The objective of this configuration."""
        return ClassifyObjective(self)


class ClassifyObjective(Objective):
    """Each picture's class from its embedding alone."""

    def __init__(self, settings: ClassifyConfig) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean over this rank's pictures, of which all ranks have equally many, and the share that is right.

        Raises:
            UserError: the batch has no classes, or the towers no head.
        """
        if outputs.class_logits is None or context.classes is None:
            raise UserError("objective 'classify' needs data.labels, and a head over their classes ([head])")
        logits = outputs.class_logits
        smoothing = self.settings.label_smoothing
        loss = F.cross_entropy(logits, context.classes, label_smoothing=smoothing)
        right = (logits.detach().argmax(dim=1) == context.classes).to(logits.dtype).mean()
        return ObjectiveOutput(loss=loss, report={"in_batch_acc1": right})
