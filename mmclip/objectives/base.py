"""The protocol of an objective: it takes tensors, never a model, and declares what it needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor, nn

from mmclip.batch import ObjectiveOutput, PairLabels, TowerOutput


@dataclass(frozen=True)
class ObjectiveNeeds:
    """What the training module must provide or check for an objective."""

    logit_bias: bool = False
    """The towers must own a logit bias; where it is False an existing bias is frozen, since no gradient reaches it."""
    exported_modules: tuple[str, ...] = ()
    """Names of the objective's own modules that belong to the released model."""
    logit_scale: bool = True
    """The scale learns; where it is False it is frozen, since no gradient reaches it."""
    class_head: bool = False
    """The towers must own a head over classes, and batches must have classes."""
    teacher: str | None = None
    """A source of weights whose embeddings of the batch `ObjectiveContext.teacher` must hold."""
    pair_labels: bool = False
    """`ObjectiveContext.labels` must name captions and pictures, so that duplicates in the batch are known."""


@dataclass(frozen=True)
class ObjectiveContext:
    """Where the run stands, for objectives that change with it, and what a batch is besides its embeddings."""

    step: int
    samples_seen: int
    labels: PairLabels | None = None
    """Ids of the captions and of the pictures of this rank's batch, where the objective needs them."""
    classes: Int[Tensor, " batch"] | None = None
    """Of this rank's batch, where the run learns from classes."""
    teacher: TowerOutput | None = None
    """The teacher's embeddings of this rank's batch, where the objective has a teacher."""


@runtime_checkable
class Objective(Protocol):
    """A loss over the towers' output; batch-coupled, so its loss is that of the global batch (see `ObjectiveOutput`)."""

    needs: ObjectiveNeeds

    def __call__(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss of this rank's slice; it changes no state."""
        ...

    def on_optimizer_step(self, context: ObjectiveContext) -> None:
        """Change state (queue, teacher, centre): called once after each optimizer step, and nowhere else."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All state of the objective, empty where it has none."""
        ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any:
        """Take back what `state_dict` gave."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Learned parameters of its heads."""
        ...
