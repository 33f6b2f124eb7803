"""Version 2 of `moco`: a queue of keys (He et al. 2020, algorithm 1, with the head of Chen et al. 2020)."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.objectives.base import Objective, ObjectiveContext, ObjectiveNeeds
from mmclip.objectives.parts.given import needed_labels, needed_momentum
from mmclip.objectives.parts.heads import Head
from mmclip.objectives.parts.ring import Ring
from mmclip.objectives.parts.teacher_heads import follow, teacher_of
from mmclip.ops.keys import queue_infonce


class MocoObjective(Objective):
    """Each first view must find its second view's key among those of the queue."""

    def __init__(
        self, needs: ObjectiveNeeds, temperature: float, head: Callable[[], Head], width: int, queue_size: int
    ) -> None:
        super().__init__()
        self.needs = needs
        self.temperature = temperature
        self.projector = head()
        self.teacher = teacher_of(self.projector, head)
        self.ring = Ring(queue_size, width, factors=1)

    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss, 0 as long as the queue is empty; and how full and how old it is."""
        query = self.projector(outputs.views["strong"][0].pooled)
        with torch.no_grad():
            key = F.normalize(self.teacher(needed_momentum(context).views["strong"][-1].pooled), dim=1)
        negative = self.ring.others(_pictures(context))
        loss = queue_infonce(query, key, self.ring.keys, negative, self.temperature)
        report = {
            "view_similarity": F.cosine_similarity(query.detach(), key).mean(),
            "queue_filled": self.ring.share_filled(),
            "queue_age": self.ring.mean_age(context.step),
            "queue_agreement": self.ring.agreement(key, _pictures(context)),
        }
        return ObjectiveOutput(loss, report, staged={"keys": key}, features={"projected": query.detach()})

    def on_optimizer_step(self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Tensor) -> None:
        """The teacher's head follows, and this step's keys become negatives of the next."""
        assert self.needs.momentum is not None, "declared by the configuration"
        follow(self.teacher, self.projector, self.needs.momentum.at(context.share), skipped)
        self.ring.push(staged["keys"], _pictures(context), context.step, skipped)


def _pictures(context: ObjectiveContext) -> Int[Tensor, "batch 1"]:
    """Ids of pictures, the last factor of labels: other pictures with the same caption, or none, are negatives all the same."""
    return needed_labels(context).image[:, -1:]
