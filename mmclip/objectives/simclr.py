"""`simclr`: two views of each picture must find each other among the views of all others (Chen et al. 2020)."""

from typing import Literal

import torch.nn.functional as F

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.objectives.base import ModelShape, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.parts.checks import at_least, positive
from mmclip.objectives.parts.heads import projector
from mmclip.objectives.parts.norm import Norm
from mmclip.ops.nt_xent import nt_xent


@config
class SimclrConfig:
    """NT-Xent between two strong views of each picture, after a projector that is thrown away after training."""

    type: Literal["simclr"] = "simclr"
    temperature: float = 0.1
    """What cosines are divided by."""
    hidden: int = 2048
    """Width of the projector's hidden layers."""
    out: int = 128
    """Width of the space in which views are compared."""
    layers: int = 2
    norm: Norm = "none"
    """Between the projector's layers: `batch` is that of the rows of all ranks, as the paper has it."""

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)
        at_least(1, hidden=self.hidden, out=self.out, layers=self.layers)

    @property
    def needs(self) -> ObjectiveNeeds:
        """What the run must provide."""
        return ObjectiveNeeds(pairs=False, logit_scale=False, views=(ViewNeed("strong", copies=2, style="strong"),))

    def build(self, shape: ModelShape) -> "SimclrObjective":
        """The objective of this configuration."""
        return SimclrObjective(self, shape)


class SimclrObjective(Objective):
    """The two views of a picture attract each other, and every other view of the global batch repels them."""

    def __init__(self, settings: SimclrConfig, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.needs = settings.needs
        self.projector = projector(shape.pooled, settings.hidden, settings.out, settings.layers, settings.norm)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, and the mean cosine of the two views of a picture."""
        first, second = (self.projector(view.pooled) for view in outputs.views["strong"])
        similarity = F.cosine_similarity(first, second).mean().detach()
        loss = nt_xent(first, second, self.settings.temperature)
        return ObjectiveOutput(
            loss=loss, report={"view_similarity": similarity}, features={"projected": first.detach()}
        )
