"""`byol`: predict what a slowly following teacher makes of another view, without negatives (BYOL, Grill et al. 2020)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.parts.checks import at_least
from mmclip.objectives.parts.given import needed_momentum
from mmclip.objectives.parts.heads import Head, predictor, projector
from mmclip.objectives.parts.norm import Norm
from mmclip.objectives.parts.teacher_heads import follow, teacher_of
from mmclip.ops.cosine import mean_cosine


@config
class ByolConfig:
    """Two strong views, of which each predicts the teacher's projection of the other."""

    type: Literal["byol"] = "byol"
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor."""
    out: int = 256
    """Width of the space in which views are compared."""
    norm: Norm = "batch"
    """Between the layers of the heads; without that of the batch it collapses on short runs (docs/objectives.md)."""
    momentum: float = 0.996
    """Share of the teacher that stays at the first step; it rises to `momentum_end` by a cosine."""
    momentum_end: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, hidden=self.hidden, out=self.out)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        views = (ViewNeed("strong", copies=2, style="strong"),)
        momentum = MomentumNeed(self.momentum, self.momentum_end, views=("strong",))
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=views, momentum=momentum)

    def build(self, shape: ModelShape) -> "ByolObjective":
        """The objective of this configuration."""
        return ByolObjective(self, shape)


class ByolObjective(Objective):
    """What keeps it from collapse is the predictor, which the teacher lacks, and that no gradient reaches the teacher."""

    def __init__(self, settings: ByolConfig, shape: ModelShape) -> None:
        super().__init__()
        self.needs = settings.needs

        def build() -> Head:
            return projector(shape.pooled, settings.hidden, settings.out, 2, settings.norm)

        self.projector = build()
        self.predictor = predictor(settings.out, settings.hidden, settings.norm)
        self.teacher_projector = teacher_of(self.projector, build)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The sum of both directions, from 0 (all agree) to 8; both cosines are reported."""
        projected = [self.projector(view.pooled) for view in outputs.views["strong"]]
        with torch.no_grad():
            first, second = [self.teacher_projector(view.pooled) for view in needed_momentum(context).views["strong"]]
        predicted = [self.predictor(rows) for rows in projected]
        cosine = mean_cosine(predicted[0], second) + mean_cosine(predicted[1], first)
        followed = (mean_cosine(projected[0], first) + mean_cosine(projected[1], second)) / 2
        report = {"prediction_cosine": cosine.detach() / 2, "teacher_cosine": followed.detach()}
        return ObjectiveOutput(loss=4 - 2 * cosine, report=report, features={"projected": projected[0].detach()})

    def on_optimizer_step(self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Tensor) -> None:
        """The teacher's projector follows."""
        assert self.needs.momentum is not None, "a part of what it needs"
        follow(self.teacher_projector, self.projector, self.needs.momentum.at(context.share), skipped)
