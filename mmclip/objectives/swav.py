"""`swav`: tell another view's cluster, where clusters are used evenly (SwAV, Caron et al. 2020)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.checks import at_least, positive
from mmclip.objectives.parts.crops import GLOBAL, MultiCropConfig, crops_of
from mmclip.objectives.parts.heads import Prototypes, projector
from mmclip.ops.prototypes import entropy, sinkhorn, swapped_cross_entropy, used_share


@config
class SwavConfig(MultiCropConfig):
    """Swapped prediction of assignments to prototypes."""

    type: Literal["swav"] = "swav"
    local_views: int = 6
    """Small crops of each picture beside the two large ones; 0 for none."""
    out: int = 128
    """Width of the space in which the prototypes lie."""
    epsilon: float = 0.05
    """How even the assignments of each single picture are; the lower, the more certain."""
    iterations: int = 3
    """Of Sinkhorn and Knopp; each brings the use of the prototypes nearer to even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, out=self.out, iterations=self.iterations)
        positive(epsilon=self.epsilon)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=self.crops)

    def build(self, shape: ModelShape) -> "SwavObjective":
        """The objective of this configuration."""
        self.check_shape(shape)
        return SwavObjective(self, shape)


class SwavObjective(Objective):
    """What keeps it from collapse is that the assignments of a global batch must use all prototypes evenly."""

    def __init__(self, settings: SwavConfig, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs
        self.projector = projector(shape.pooled, settings.hidden, settings.out, 2, settings.norm)
        self.prototypes = Prototypes(settings.out, settings.prototypes)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean cross-entropy over pairs of views, with the assignments of the large ones as targets."""
        frozen = context.share < self.settings.frozen_share
        scores = [self.prototypes(self.projector(view.pooled), frozen) for view in crops_of(outputs)]
        large = scores[: len(outputs.views[GLOBAL])]
        targets = [sinkhorn(rows, self.settings.epsilon, self.settings.iterations) for rows in large]
        loss = swapped_cross_entropy(targets, scores, self.settings.temperature)
        report = {"assignment_entropy": entropy(targets), "prototype_use": used_share(targets)}
        return ObjectiveOutput(loss=loss, report=report)
