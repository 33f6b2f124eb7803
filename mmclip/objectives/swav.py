"""`swav`: tell another view's cluster, where clusters are used evenly (SwAV, Caron et al. 2020)."""

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.checks import at_least, positive, shares
from mmclip.objectives.parts.crops import MultiCropConfig, crops_of
from mmclip.objectives.parts.heads import Prototypes, projector
from mmclip.objectives.parts.view_queues import ViewQueues
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
    queue_size: int = 0
    """Rows of earlier batches that take part in the assignments: for global batches of fewer rows than prototypes."""
    queue_from: float = 0.04
    """Share of the run that is done before they do: at first features move too fast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, out=self.out, iterations=self.iterations)
        at_least(0, queue_size=self.queue_size)
        positive(epsilon=self.epsilon)
        shares(queue_from=self.queue_from)

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
        self.queues = ViewQueues(settings.queue_size, settings.out)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean cross-entropy over pairs of views, with the assignments of the large ones as targets."""
        frozen = context.share < self.settings.frozen_share
        projected = [self.projector(view.pooled) for view in crops_of(outputs)]
        scores = [self.prototypes(rows, frozen) for rows in projected]
        queued = self.queues.scores(self.prototypes) if context.share >= self.settings.queue_from else (None, None)
        targets = [
            sinkhorn(rows, self.settings.epsilon, self.settings.iterations, further)
            for rows, further in zip(scores[:2], queued, strict=True)
        ]
        loss = swapped_cross_entropy(targets, scores, self.settings.temperature)
        report = {"assignment_entropy": entropy(targets), "prototype_use": used_share(targets)}
        features = {"projected": projected[0].detach()}
        return ObjectiveOutput(loss, report, self.queues.staged(projected), features)

    def on_optimizer_step(
        self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Float[Tensor, ""]
    ) -> None:
        """This step's rows enter the queues."""
        self.queues.push(staged, context.step, skipped)
