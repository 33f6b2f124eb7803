"""Objectives on the slices of ranks: three optimizer steps on random features, as `loss_worker.py` runs them.

A further one is a line of `CASES`: its inputs are made from what it declares that it needs. Those that learn from views
without negatives are in `view_objective_worker.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import PairLabels, TowerOutput, ViewOutput
from mmclip.objectives import (
    ByolConfig,
    DinoConfig,
    HardNegativesConfig,
    MocoConfig,
    ModelShape,
    ObjectiveContext,
    ObjectiveNeeds,
    QueueConfig,
    SimclrConfig,
    SimsiamConfig,
    SwavConfig,
    TripletConfig,
    VicregConfig,
)
from mmclip.ops.gather import all_gather, rank, world_size

ROWS, STEPS = 12, 3
SHAPE = ModelShape(embed=5, pooled=4, image_size=(32, 32), patch_size=(8, 8))
HEAD: dict[str, Any] = {"hidden": 7, "out": 6}
CASES: dict[str, Any] = {
    "simclr": SimclrConfig(**HEAD),
    "simclr, batch norm": SimclrConfig(**HEAD, norm="batch"),
    "moco": MocoConfig(**HEAD, queue_size=20),  # the third step goes around, at a place that no batch divides
    "moco, more keys than there is room for": MocoConfig(**HEAD, queue_size=7, norm="batch"),
    "moco v3": MocoConfig(**HEAD, version=3, norm="batch"),
    "queue": QueueConfig(queue_size=20),
    "queue, duplicates positive": QueueConfig(queue_size=7, duplicates="positive"),
    "triplet, hardest": TripletConfig(),
    "triplet, semi-hard": TripletConfig(mining="semi_hard", duplicates="negative"),
    "triplet, all": TripletConfig(mining="all"),
    "hard_negatives": HardNegativesConfig(beta=1.0, tau_plus=0.1),
    "hard_negatives, all": HardNegativesConfig(beta=0.5, duplicates="negative"),
    "byol": ByolConfig(**HEAD),
    "byol, no norm": ByolConfig(**HEAD, norm="none"),
    "simsiam": SimsiamConfig(**HEAD, bottleneck=3),
    "vicreg": VicregConfig(**HEAD),
    "vicreg, batch norm": VicregConfig(**HEAD, norm="batch"),
    "swav": SwavConfig(**HEAD, prototypes=8, local_views=2),
    "swav, queue": SwavConfig(**HEAD, prototypes=8, local_views=0, queue_size=20, queue_from=0.0),
    "dino": DinoConfig(hidden=7, bottleneck=6, prototypes=8, local_views=2),
}


class Features:
    """Random rows of the joined batch, of which each rank takes its own; those with a gradient are kept by name."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.leaves: dict[str, Tensor] = {}

    def rows(self, name: str, width: int, unit: bool = False) -> Tensor:
        joined = torch.randn(ROWS, width, dtype=torch.float64, generator=self.generator)
        own = (F.normalize(joined, dim=1) if unit else joined).chunk(world_size())[rank()].clone()
        self.leaves[name] = own.requires_grad_()
        return own

    def outputs(self, needs: ObjectiveNeeds, names: tuple[str, ...] | None, pairs: bool, of: str) -> TowerOutput:
        """What towers hand over of the views of `names`, of all of them where that is None, and of pairs."""
        width = SHAPE.embed if pairs else 0
        image, text = (self.rows(f"{of} {side}", width, unit=True) for side in ("image", "text"))
        views = {
            need.name: tuple(
                ViewOutput(
                    self.rows(f"{of} {need.name} {copy}", SHAPE.pooled),
                    self.rows(f"{of} {need.name} {copy} embed", SHAPE.embed, unit=True) if need.embeds else None,
                )
                for copy in range(need.copies)
            )
            for need in needs.views
            if names is None or need.name in names
        }
        scale = torch.tensor([14.3], dtype=torch.float64, requires_grad=True)
        self.leaves[f"{of} scale"] = scale
        return TowerOutput(image, text, scale, None, views=views)


def labels_of(step: int) -> PairLabels:
    """Captions and pictures that repeat within a step, across ranks and across steps."""
    places = torch.arange(ROWS) + 5 * step
    joined = torch.stack([places % 9, places // 2 % 7 + 100], 1)
    own = joined.chunk(world_size())[rank()]
    return PairLabels(own, own.clone())


def averaged(value: Tensor) -> Tensor:
    """The mean over ranks, as DDP takes it of gradients."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def step_of(objective: Any, number: int) -> dict[str, Tensor]:
    """One optimizer step: the loss, its figures and the gradients, put together from all ranks."""
    needs, given, taught = objective.needs, Features(number), Features(100 + number)
    outputs = given.outputs(needs, None, needs.pairs, "student")
    momentum = needs.momentum
    context = ObjectiveContext(
        step=number,
        samples_seen=ROWS * number,
        labels=labels_of(number) if needs.pair_labels else None,
        share=number / STEPS,
        momentum=None if momentum is None else taught.outputs(needs, momentum.views, momentum.pairs, "teacher"),
    )
    found = objective(outputs, context)
    found.loss.backward()
    answers = {"loss": averaged(found.loss)} | {name: averaged(value) for name, value in found.report.items()}
    for name, leaf in given.leaves.items():
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        # Rows are those of one rank alone: of what DDP averages, the other ranks' part is 0.
        answers[f"gradient of {name}"] = averaged(gradient) if "scale" in name else all_gather(gradient) / world_size()
    assert all(leaf.grad is None for leaf in taught.leaves.values()), "a gradient has reached the teacher"
    with torch.no_grad():
        for name, weight in objective.named_parameters():
            if weight.requires_grad:
                assert weight.grad is not None, name
                answers[f"gradient of {name}"] = averaged(weight.grad)
                weight.sub_(0.1 * answers[f"gradient of {name}"])
                weight.grad = None
    objective.on_optimizer_step(found.staged, context, torch.zeros(()))
    return answers


def answers_of(cases: Mapping[str, Any] = CASES) -> dict[str, Tensor]:
    """What each case gave at each step, and the state that it ended with, which is that of every rank."""
    answers = {}
    for name, config in cases.items():
        torch.manual_seed(0)
        objective = config.build(SHAPE).double()
        for number in range(STEPS):
            found = step_of(objective, number)
            answers |= {f"objective / {name} / step {number} / {label}": value for label, value in found.items()}
        for label, value in objective.state_dict().items():
            value = value.double()
            assert all(torch.equal(value, other) for other in all_gather(value[None])), f"{name}: {label} differs"
            answers[f"objective / {name} / state / {label}"] = value
    return answers
