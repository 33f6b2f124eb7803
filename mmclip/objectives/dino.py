"""`dino`: small crops tell how a teacher sorts large ones over prototypes that nobody named (DINO, Caron et al. 2021)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.centre import Centre
from mmclip.objectives.parts.checks import at_least, positive, shares
from mmclip.objectives.parts.crops import GLOBAL, MultiCropConfig, crops_of
from mmclip.objectives.parts.given import needed_momentum
from mmclip.objectives.parts.heads import PrototypeHead, dino_head
from mmclip.objectives.parts.teacher_heads import follow, teacher_of
from mmclip.ops.prototypes import entropy, sharpened, swapped_cross_entropy, used_share


@config
class DinoConfig(MultiCropConfig):
    """Self-distillation with multi-crop."""

    type: Literal["dino"] = "dino"
    prototypes: int = 65536
    bottleneck: int = 256
    """Width of the space in which the prototypes lie."""
    teacher_temperature: float = 0.04
    """The teacher's at the first step: the lower, the more certain."""
    teacher_temperature_end: float = 0.07
    """From the end of the warm-up; it rises on a line."""
    warmup_share: float = 0.1
    """Share of the run that the warm-up of the teacher's temperature takes."""
    centre_momentum: float = 0.9
    """Share of the centre that stays at a step."""
    momentum: float = 0.996
    """Share of the teacher that stays at the first step; it rises to `momentum_end` by a cosine."""
    momentum_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, bottleneck=self.bottleneck)
        positive(teacher_temperature=self.teacher_temperature, teacher_temperature_end=self.teacher_temperature_end)
        shares(warmup_share=self.warmup_share, centre_momentum=self.centre_momentum)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        momentum = MomentumNeed(self.momentum, self.momentum_end, views=(GLOBAL,))
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=self.crops, momentum=momentum)

    def teacher_temperature_at(self, share: float) -> float:
        """The teacher's temperature when a `share` of the run is done."""
        done = min(1.0, share / self.warmup_share) if self.warmup_share else 1.0
        return self.teacher_temperature + done * (self.teacher_temperature_end - self.teacher_temperature)

    def build(self, shape: ModelShape) -> "DinoObjective":
        """The objective of this configuration."""
        self.check_shape(shape)
        return DinoObjective(self, shape)


class DinoObjective(Objective):
    """Centring keeps one prototype from taking all, the teacher's low temperature keeps all from being taken alike."""

    def __init__(self, settings: DinoConfig, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs

        def build() -> PrototypeHead:
            return dino_head(shape.pooled, settings.hidden, settings.bottleneck, settings.prototypes, settings.norm)

        self.head = build()
        self.teacher_head = teacher_of(self.head, build)
        self.centre = Centre(settings.prototypes, settings.centre_momentum)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The mean cross-entropy over pairs of views; the teacher's entropy, and the loss beyond it, are reported."""
        with torch.no_grad():
            taught = [self.teacher_head(view.pooled) for view in needed_momentum(context).views[GLOBAL]]
        temperature = self.settings.teacher_temperature_at(context.share)
        targets = [sharpened(scores, self.centre.mean, temperature) for scores in taught]
        frozen = context.share < self.settings.frozen_share
        projected = [self.head.projector(view.pooled) for view in crops_of(outputs)]
        told = [self.head.prototypes(rows, frozen) for rows in projected]
        loss, certainty = swapped_cross_entropy(targets, told, self.settings.temperature), entropy(targets)
        report = {
            "teacher_entropy": certainty,
            "teacher_divergence": loss.detach() - certainty,
            "prototype_use": used_share(targets),
            "centre_norm": self.centre.mean.norm(),
        }
        mean, features = torch.stack(taught).mean(dim=(0, 1)), {"projected": projected[0].detach()}
        return ObjectiveOutput(loss=loss, report=report, staged={"mean": mean}, features=features)

    def on_optimizer_step(self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Tensor) -> None:
        """The teacher's head follows, and the centre moves."""
        assert self.needs.momentum is not None, "a part of what it needs"
        follow(self.teacher_head, self.head, self.needs.momentum.at(context.share), skipped)
        self.centre.move(staged["mean"], skipped)
