"""The small frozen types that flow through mmclip, and the words for their axes.

Axis words, everywhere the same: batch (samples of this rank), global_batch (samples of all ranks), token, patch, width
(channels inside a tower), embed (the joint space), height, width_px, rank, view, class, query, gallery.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class DataPosition:
    """Where the data of a run stands: the whole state of the loader."""

    samples_consumed: int
    """Samples of all ranks that batches have handed out since the start of the run."""


@dataclass(frozen=True)
class Replacement:
    """One permanently bad sample and what the loader put in its place."""

    position: int
    """Position on the line of consumed samples."""
    sample_id: str
    reason: str
    replaced_by: str


@dataclass(frozen=True)
class ImageTextBatch:
    """One rank's slice of a global batch, with the position that follows it."""

    images: UInt8[Tensor, "batch 3 height width_px"]
    """Pixels as decoded and cropped; normalisation happens on the device."""
    tokens: Int[Tensor, "batch token"]
    """Token ids, as wide as the longest caption of the slice where the text tower allows it; beside `text_features` one column,
    the number of the caption among the distinct ones of its source; without a column where a run learns from pictures alone."""
    keys: Int[Tensor, " batch"]
    """A random 63-bit key per sample, equal for any number of ranks and workers: the seed of device-side randomness."""
    ids: tuple[str, ...]
    """`source/shard/key` of each sample."""
    position: DataPosition
    """The position after the whole global batch."""
    replaced: tuple[Replacement, ...] = ()
    views: tuple[UInt8[Tensor, "batch 3 _ _"], ...] = ()
    """Further views of the same pictures, in the order of `data.views`; `images` is view 0."""
    lengths: Int[np.ndarray, " batch"] | None = None
    """Columns of each caption that its tower needs (`TwoTower.text_lengths`); on the host, since they decide shapes."""
    image_features: Float[Tensor, "batch feature"] | None = None
    """Of the frozen part of the image tower, computed before the run; `images` then have no pixel."""
    text_features: Float[Tensor, "batch text_feature"] | None = None
    """Of the frozen part of the text tower, computed before the run."""
    classes: Int[Tensor, " batch"] | None = None
    """The class of each sample, where a run learns from classes."""

    def to(self, device: torch.device) -> "ImageTextBatch":
        """The same batch with its tensors on `device`; the copy from pinned memory does not block."""
        move = {name: getattr(self, name).to(device, non_blocking=True) for name in self._tensors()}
        return replace(self, **move, views=tuple(view.to(device, non_blocking=True) for view in self.views))

    def split(self, parts: int) -> "list[ImageTextBatch]":
        """The batch as so many batches of equal size, in the order of its samples; they share its memory."""
        if parts == 1:
            return [self]
        size = len(self.ids) // parts
        assert size * parts == len(self.ids), "the step has checked that the micro-batches come out even"
        starts = range(0, len(self.ids), size)
        return [
            replace(
                self,
                images=self.images[start : start + size],
                tokens=self.tokens[start : start + size],
                keys=self.keys[start : start + size],
                ids=self.ids[start : start + size],
                views=tuple(view[start : start + size] for view in self.views),
                lengths=None if self.lengths is None else self.lengths[start : start + size],
                image_features=None if self.image_features is None else self.image_features[start : start + size],
                text_features=None if self.text_features is None else self.text_features[start : start + size],
                classes=None if self.classes is None else self.classes[start : start + size],
            )
            for start in starts
        ]

    def pin_memory(self) -> "ImageTextBatch":
        """The same batch in page-locked memory (called by torch's loader where CUDA is in use)."""
        pinned = {name: getattr(self, name).pin_memory() for name in self._tensors()}
        return replace(self, **pinned, views=tuple(view.pin_memory() for view in self.views))

    def _tensors(self) -> tuple[str, ...]:
        optional = ("image_features", "text_features", "classes")
        return ("images", "tokens", "keys", *(name for name in optional if getattr(self, name) is not None))


@dataclass(frozen=True)
class PairLabels:
    """Which images and texts of a batch belong together whatever their places: a pair does if it agrees in any factor.

    A factor is a column of integers, such as a class, or an id of a caption or of a picture.
    """

    image: Int[Tensor, "batch factor"]
    text: Int[Tensor, "texts factor"]


@dataclass(frozen=True)
class ViewOutput:
    """What an image tower makes of one view of each picture."""

    pooled: Float[Tensor, "batch width"]
    """Before the projection into the joint space; not normalised."""
    embed: Float[Tensor, "batch embed"] | None = None
    """L2-normalised, in the joint space, where it was asked for."""
    tokens: Float[Tensor, "batch patch width"] | None = None
    """Of each patch that the tower got, after its last norm, where they were asked for."""
    kept: Int[Tensor, "batch patch"] | None = None
    """Numbers of those patches, row by row, where some were masked."""

    def part(self, samples: slice) -> "ViewOutput":
        """The rows of some samples."""
        rest = (None if rows is None else rows[samples] for rows in (self.embed, self.tokens, self.kept))
        return ViewOutput(self.pooled[samples], *rest)


@dataclass(frozen=True)
class TowerOutput:
    """What the two towers hand to an objective."""

    PER_SAMPLE: ClassVar[tuple[str, ...]] = ("image_embed", "text_embed", "class_logits")
    """Fields with a row for each sample, where they are there; `views` and `local` have rows too, the rest is the model's."""

    image_embed: Float[Tensor, "batch embed"]
    """L2-normalised; of width 0 where no objective needs pairs."""
    text_embed: Float[Tensor, "batch embed"]
    """L2-normalised; of width 0 where no objective needs pairs."""
    logit_scale: Float[Tensor, "1"]
    """The inverse temperature itself: `exp` of the learned parameter."""
    logit_bias: Float[Tensor, "1"] | None
    class_logits: Float[Tensor, "batch class"] | None = None
    """Of the class head, where the towers have one."""
    views: Mapping[str, tuple[ViewOutput, ...]] = field(default_factory=dict)
    """Further views by the name that an objective gave them, one entry a copy."""
    local: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    """Losses of each sample for itself (`Objective.local`), by name."""

    def rows(self) -> "dict[str, Float[Tensor, 'batch ...']]":
        """Every tensor with a row for each sample that a loss of the whole batch may read, by a dotted name."""
        found = {name: getattr(self, name) for name in self.PER_SAMPLE if getattr(self, name) is not None}
        for name, copies in self.views.items():
            for number, view in enumerate(copies):
                found[f"views.{name}.{number}.pooled"] = view.pooled
                if view.embed is not None:
                    found[f"views.{name}.{number}.embed"] = view.embed
        return found | {f"local.{name}": row for name, row in self.local.items()}

    def with_rows(self, rows: "Mapping[str, Float[Tensor, 'batch ...']]") -> "TowerOutput":
        """The same with other rows under the names of `rows()`; features of patches are left behind."""
        views = {
            name: tuple(
                ViewOutput(rows[f"views.{name}.{number}.pooled"], rows.get(f"views.{name}.{number}.embed"))
                for number in range(len(copies))
            )
            for name, copies in self.views.items()
        }
        own = {name: rows[name] for name in self.PER_SAMPLE if name in rows}
        return replace(self, **own, views=views, local={name: rows[f"local.{name}"] for name in self.local})

    def detached(self) -> "TowerOutput":
        """The same without a graph."""
        bias = None if self.logit_bias is None else self.logit_bias.detach()
        rows = {name: row.detach() for name, row in self.rows().items()}
        return replace(self.with_rows(rows), logit_scale=self.logit_scale.detach(), logit_bias=bias)


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss whose gradient, averaged over ranks, is that of the joined batch."""

    loss: Float[Tensor, ""]
    """This rank's partial sum times the number of ranks, so its mean over ranks is the loss of the global batch."""
    report: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Detached figures on the same convention, for the log."""
    staged: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached tensors of this rank for the objective's own `on_optimizer_step`, such as the keys that enter a queue."""
    features: Mapping[str, Float[Tensor, "batch _"]] = field(default_factory=dict)
    """Detached rows of this rank's batch whose health is logged, by name, such as what a projector makes of the first view."""
    parts: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Losses of several objectives, each times its weight, whose sum `loss` is: for the angle between their gradients."""


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did. Figures are tensors on the device: reading them waits for it."""

    loss: Float[Tensor, ""]
    """Mean over ranks: the loss of the global batch."""
    grad_norm: Float[Tensor, ""]
    """L2 norm of the averaged gradient, before clipping."""
    skipped: Float[Tensor, ""]
    """1 where no weight was changed, because the loss or the gradient of some rank was not finite; else 0."""
    not_finite: Bool[Tensor, " batch"]
    """Samples of this rank whose embeddings are not finite."""
    learning_rate: float
    metrics: Mapping[str, Float[Tensor, ""]]
    image_embed: Float[Tensor, "batch embed"]
    """This rank's image embeddings before the update, without graph: who keeps the report keeps them in memory."""
    text_embed: Float[Tensor, "batch embed"]
    """The text embeddings of the same samples."""
    features: Mapping[str, Float[Tensor, "batch _"]] = field(default_factory=dict)
    """Further rows of the same samples whose health is logged, by name."""
