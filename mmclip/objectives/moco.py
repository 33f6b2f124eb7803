"""`moco`: a view must find its momentum teacher's key among those of other pictures (He et al. 2020; Chen et al. 2021)."""

from functools import partial
from typing import Literal

from mmclip.config import config
from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveNeeds, ViewNeed
from mmclip.objectives.moco_v2 import MocoObjective
from mmclip.objectives.moco_v3 import MocoV3Objective
from mmclip.objectives.parts.checks import at_least, positive, shares
from mmclip.objectives.parts.heads import predictor, projector
from mmclip.objectives.parts.norm import Norm


@config
class MocoConfig:
    """InfoNCE of one view against the keys that a momentum teacher makes of another."""

    type: Literal["moco"] = "moco"
    version: Literal[2, 3] = 2
    """2 has a queue of keys, and one view asks while the other answers; 3 has the keys of the batch and a predictor, and both
    views ask."""
    temperature: float = 0.2
    queue_size: int = 65536
    """Keys that version 2 holds: all of its negatives."""
    momentum: float | None = None
    """Share of the teacher that stays at an optimizer step: by default .999 all along in version 2; in version 3 it begins at
    .99 and ends at 1."""
    hidden: int = 2048
    out: int = 128
    """Width of the space in which views are compared; the paper of version 3 has 256."""
    layers: int = 2
    norm: Norm = "none"

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)
        shares(momentum=1.0 if self.momentum is None else self.momentum)
        at_least(1, queue_size=self.queue_size, hidden=self.hidden, out=self.out, layers=self.layers)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        usual = 0.999 if self.version == 2 else 0.99
        start = usual if self.momentum is None else self.momentum
        one_side = 1 if self.version == 2 else None  # the first view asks, the second one answers
        return ObjectiveNeeds(
            pairs=False,
            logit_scale=False,
            pair_labels=self.version == 2,
            views=(ViewNeed("strong", copies=2, style="strong", learning=one_side, teaching=one_side),),
            momentum=MomentumNeed(start, start if self.version == 2 else 1.0, views=("strong",)),
        )

    def build(self, shape: ModelShape) -> Objective:
        """The objective of this configuration."""
        head = partial(projector, shape.pooled, self.hidden, self.out, self.layers, self.norm)
        if self.version == 2:
            return MocoObjective(self.needs, self.temperature, head, self.out, self.queue_size)
        return MocoV3Objective(self.needs, self.temperature, head, predictor(self.out, self.hidden, self.norm))
