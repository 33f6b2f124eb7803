"""`simsiam`: predict the other view's projection, which the gradient does not move (SimSiam, Chen and He 2021)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.parts.checks import at_least
from mmclip.objectives.parts.heads import predictor, projector
from mmclip.objectives.parts.norm import Norm
from mmclip.ops.cosine import mean_cosine


@config
class SimsiamConfig:
    """Two strong views, of which each predicts the other; no teacher and no negatives."""

    type: Literal["simsiam"] = "simsiam"
    hidden: int = 2048
    """Width of the hidden layers of the projector."""
    out: int = 2048
    """Width of the space in which views are compared."""
    bottleneck: int = 512
    """Width of the predictor's hidden layer."""
    norm: Norm = "batch"
    """Between the layers of the heads and, without scale and shift, after the projector; it collapses without that of the
    batch (table 2 of the paper's section 4.4, and docs/objectives.md)."""

    def __post_init__(self) -> None:
        at_least(1, hidden=self.hidden, out=self.out, bottleneck=self.bottleneck)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        views = (ViewNeed("strong", copies=2, style="strong"),)
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=views)

    def build(self, shape: ModelShape) -> "SimsiamObjective":
        """The objective of this configuration."""
        return SimsiamObjective(self, shape)


class SimsiamObjective(Objective):
    """What keeps it from collapse is the stopped gradient of the target, and the predictor."""

    def __init__(self, settings: SimsiamConfig, shape: ModelShape) -> None:
        super().__init__()
        self.needs = settings.needs
        self.projector = projector(shape.pooled, settings.hidden, settings.out, 3, settings.norm, settings.norm)
        self.predictor = predictor(settings.out, settings.bottleneck, settings.norm)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The negative mean cosine of both directions, from -1 (all agree) to 1."""
        first, second = [self.projector(view.pooled) for view in outputs.views["strong"]]
        loss = -(mean_cosine(self.predictor(first), second) + mean_cosine(self.predictor(second), first)) / 2
        report = {"prediction_cosine": -loss.detach()}
        return ObjectiveOutput(loss=loss, report=report, features={"projected": first.detach()})
