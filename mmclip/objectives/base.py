"""The protocol of an objective: it takes tensors, never a model, and declares what it needs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from mmclip.batch import ObjectiveOutput, PairLabels, TowerOutput
from mmclip.errors import UserError

Style = Literal["weak", "strong", "crop", "crop_a", "crop_b", "local"]
"""How a view is drawn; `mmclip_data.loading.styles` says what each name means."""


@dataclass(frozen=True)
class ViewNeed:
    """Further views of each picture that an objective looks at, and what it looks at of them."""

    name: str
    """Objectives of one run that need the same views share those of one name."""
    copies: int = 1
    """How many, each drawn for itself."""
    style: Style = "strong"
    size: int | None = None
    """Side in pixels; without it that of the model. Positions are interpolated for a smaller one."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that the crop keeps, lowest and highest."""
    embeds: bool = False
    """The joint embedding too (`ViewOutput.embed`); else the pooled features alone."""
    tokens: bool = False
    """The features of each patch too (`ViewOutput.tokens`); seen by `Objective.local` alone."""
    masked: float = 0.0
    """Share of the patches that the student's tower does not get; the teacher's gets all."""
    noise: float = 0.0
    """Deviation of the Gaussian noise on the student's normalised pixels."""
    learning: int | None = None
    """Of the copies, how many the tower that learns encodes, the first ones; None: all."""
    teaching: int | None = None
    """Of the copies, how many the momentum towers encode, the last ones; None: all."""

    def __post_init__(self) -> None:
        for name in ("learning", "teaching"):
            asked = getattr(self, name)
            if asked is not None and not 1 <= asked <= self.copies:
                raise UserError(
                    f"view {self.name!r}: {name}={asked}: expected 1 to {self.copies}, since it is a part of the copies"
                )

    @property
    def learnt(self) -> int:
        """How many copies, from the first one on, the tower that learns encodes."""
        return self.copies if self.learning is None else self.learning

    @property
    def taught(self) -> int:
        """How many copies, up to the last one, momentum towers that see this view encode."""
        return self.copies if self.teaching is None else self.teaching


@dataclass(frozen=True)
class MomentumNeed:
    """A second pair of towers that follows the trained one as a moving average, and what it encodes."""

    start: float
    """Share of the teacher that stays at an optimizer step, at the first one."""
    end: float
    """At the last one; a cosine lies between."""
    views: tuple[str, ...] = ()
    """Names of the views that it encodes."""
    pairs: bool = False
    """The pictures and captions of the batch too."""

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise UserError(f"objective: momentum from {self.start} to {self.end}: expected shares from 0 to 1")

    def at(self, share: float) -> float:
        """The momentum of the step before which a `share` of the run is done (BYOL, Grill et al. 2020, section 3.2)."""
        return self.end - (self.end - self.start) * (math.cos(math.pi * share) + 1) / 2


@dataclass(frozen=True)
class ObjectiveNeeds:
    """What the training module must provide or check for an objective."""

    pairs: bool = True
    """Embeddings of the pictures and captions of the batch; without any that needs them the text tower rests."""
    logit_bias: bool = False
    """The towers must own a logit bias; where it is False an existing bias is frozen, since no gradient reaches it."""
    logit_scale: bool = True
    """The scale learns; where it is False it is frozen, since no gradient reaches it."""
    class_head: bool = False
    """The towers must own a head over classes, and batches must have classes."""
    teacher: str | None = None
    """A source of weights whose embeddings of the batch `ObjectiveContext.teacher` must hold."""
    pair_labels: bool = False
    """`ObjectiveContext.labels` must name captions and pictures, so that duplicates in the batch are known."""
    views: tuple[ViewNeed, ...] = ()
    embeds_of: str | None = None
    """The name of a view of another objective of the run, whose copies meet the caption in place of the picture itself."""
    momentum: MomentumNeed | None = None
    why_local: str | None = None
    """Why its loss is that of each rank's slice alone, where it is; else the gradient averaged over ranks is that of the
    joined batch."""


@dataclass(frozen=True)
class ModelShape:
    """What heads are built for."""

    embed: int
    """Dimensions of the joint space."""
    pooled: int
    """Dimensions of what the image tower pools, before its projection."""
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] | None = None
    """None where the image tower has no patches."""


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
    share: float = 0.0
    """Share of the run that is done before this step."""
    momentum: TowerOutput | None = None
    """What the towers of `MomentumNeed` make of this rank's batch, where the objective has them: no gradient reaches it."""


class Objective(nn.Module, ABC):
    """A loss over the towers' output; batch-coupled, so its loss is that of the global batch (see `ObjectiveOutput`).

    Its heads are its modules, its state (queue, centre, teacher's heads) its persistent buffers and frozen parameters. None of
    them is a part of the released model: what an export should keep belongs to the towers.
    """

    needs: ObjectiveNeeds

    def needs_at(self, share: float) -> ObjectiveNeeds:
        """What it needs of the towers in the step before which a `share` of the run is done: never more than `needs`."""
        return self.needs

    @abstractmethod
    def forward(self, outputs: TowerOutput, context: ObjectiveContext) -> ObjectiveOutput:
        """The loss of this rank's slice; it changes no state."""

    def local(
        self, outputs: TowerOutput, pixels: "Pixels", momentum: TowerOutput | None
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """Losses of each sample for itself, from what is too large to be kept for the whole batch (`ViewOutput.tokens`).

        Called with each micro-batch; `forward` finds the rows under the same names in `TowerOutput.local`. `pixels` are
        the clean views, normalised, by name and copy; `momentum` is the part of the teacher's output for these samples.
        """
        return {}

    def on_optimizer_step(
        self, staged: Mapping[str, Tensor], context: ObjectiveContext, skipped: Float[Tensor, ""]
    ) -> None:
        """Change state (queue, teacher's heads, centre): called once after each optimizer step, and nowhere else.

        `staged` is `ObjectiveOutput.staged` of that step's forward. Where `skipped` is 1 no weight was changed, and no state
        may be; it lies on the device, so nothing waits for it: multiply, or choose by `torch.where`.
        """


Pixels = Mapping[str, tuple[Float[Tensor, "batch 3 _ _"], ...]]
