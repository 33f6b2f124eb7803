"""Version 3 of `moco`: the keys of the batch instead of a queue, and a predictor (Chen, Xie and He 2021, algorithm 1)."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.objectives.base import Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.given import needed_momentum
from mmclip.objectives.parts.heads import Head
from mmclip.objectives.parts.teacher_heads import follow, teacher_of
from mmclip.ops.keys import batch_infonce


class MocoV3Objective(Objective):
    """Each view must find the other one's key among those of the global batch."""

    def __init__(self, needs: ObjectiveNeeds, temperature: float, head: Callable[[], Head], predictor: Head) -> None:
        super().__init__()
        self.needs = needs
        self.temperature = temperature
        self.projector = head()
        self.predictor = predictor
        self.teacher = teacher_of(self.projector, head)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The sum of the losses of both views."""
        queries = [self.predictor(self.projector(view.pooled)) for view in outputs.views["strong"]]
        with torch.no_grad():
            keys = [self.teacher(view.pooled) for view in needed_momentum(context).views["strong"]]
        pairs = (queries[0], keys[1]), (queries[1], keys[0])
        losses = [batch_infonce(query, key, self.temperature) for query, key in pairs]
        similarity = torch.stack([F.cosine_similarity(query.detach(), key).mean() for query, key in pairs]).mean()
        report, features = {"view_similarity": similarity}, {"projected": queries[0].detach()}
        return ObjectiveOutput(loss=losses[0] + losses[1], report=report, features=features)

    def on_optimizer_step(self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Tensor) -> None:
        """The teacher's head follows the student's."""
        assert self.needs.momentum is not None, "declared by the configuration"
        follow(self.teacher, self.projector, self.needs.momentum.at(context.share), skipped)
