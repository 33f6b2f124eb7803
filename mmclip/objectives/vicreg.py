"""`vicreg`: views agree, every dimension varies, no two vary together (VICReg, Bardes, Ponce and LeCun 2022)."""

from typing import Literal

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.parts.checks import at_least
from mmclip.objectives.parts.heads import projector
from mmclip.objectives.parts.norm import Norm
from mmclip.ops.vicreg import vicreg_terms


@config
class VicregConfig:
    """Two strong views; variance and covariance are those of the global batch."""

    type: Literal["vicreg"] = "vicreg"
    hidden: int = 8192
    """Width of the hidden layers of the projector."""
    out: int = 8192
    """Width of the space in which views are compared; the wider, the better (section 5 of the paper)."""
    norm: Norm = "none"
    """Between the layers of the projector; the paper's is `batch`."""
    invariance: float = 25.0
    """Weight of the views' mean squared distance."""
    variance: float = 25.0
    """Weight of the hinge that holds each dimension's deviation at 1."""
    covariance: float = 1.0
    """Weight of the squared covariances of different dimensions."""

    def __post_init__(self) -> None:
        at_least(1, hidden=self.hidden, out=self.out)
        weights = self.invariance, self.variance, self.covariance
        if min(weights) < 0:
            raise UserError(f"objective.invariance, variance, covariance={weights}: expected weights of at least 0")

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        views = (ViewNeed("strong", copies=2, style="strong"),)
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=views)

    def build(self, shape: ModelShape) -> "VicregObjective":
        """The objective of this configuration."""
        return VicregObjective(self, shape)


class VicregObjective(Objective):
    """What keeps it from collapse is the hinge on the variances, and the covariances from a collapse to few dimensions."""

    def __init__(self, settings: VicregConfig, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs
        self.projector = projector(shape.pooled, settings.hidden, settings.out, 3, settings.norm)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The weighted sum; the three terms are reported without their weights."""
        first, second = [self.projector(view.pooled) for view in outputs.views["strong"]]
        terms, weights = vicreg_terms(first, second), self.settings
        loss = (
            weights.invariance * terms.invariance
            + weights.variance * terms.variance
            + weights.covariance * terms.covariance
        )
        report = {name: term.detach() for name, term in terms._asdict().items()}
        return ObjectiveOutput(loss=loss, report=report, features={"projected": first.detach()})
