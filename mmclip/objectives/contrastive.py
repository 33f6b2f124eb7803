"""What the objectives over pairs of an image and a text share: their options and what they report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mmclip.batch import ObjectiveOutput, PairLabels, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ObjectiveContext
from mmclip.ops.infonce import Implementation
from mmclip.ops.pairs import ContrastiveLoss, Duplicates


@config
class ContrastiveConfig:
    """Options of a loss over pairs."""

    type: str = ""  # first in the run's file; each objective has its own name here
    label_smoothing: float = 0.0
    """Share of each target that is spread over all candidates, as torch's `cross_entropy` defines it."""
    duplicates: Literal["negative", "positive", "ignored"] = "negative"
    """What another sample of the batch is that has the same caption or the same picture: a negative like any other, a
    further positive, or neither."""
    tile: int | None = None
    """Side of the tiles in which logits are computed, in samples; by default what fits the cache of a core, or half a GiB of
    a device."""
    image_view: str | None = None
    """The name of a view of an auxiliary objective, such as `global`: each of its copies meets the caption in place of the
    picture itself, and the loss is their mean (SILC, Naeem et al. 2023, section 3.2)."""
    implementation: Implementation = "auto"
    """`tiled` never holds the batch x batch logits, `reference` does; `auto` is `tiled`."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"objective.label_smoothing={self.label_smoothing}: expected at least 0 and below 1, such as 0.1"
            )
        if self.tile is not None and self.tile < 1:
            raise UserError(
                f"objective.tile={self.tile}: expected at least 1, such as 512; leave it out for the default"
            )


@dataclass(frozen=True)
class PairOptions:
    """A configuration in the words of `mmclip.ops`."""

    labels: PairLabels | None
    duplicates: Duplicates
    label_smoothing: float
    implementation: Implementation
    tile: int | None


def pair_options(settings: ContrastiveConfig, context: ObjectiveContext) -> PairOptions:
    """The options of the loss of one batch.

    Raises:
        UserError: duplicates matter and the context does not tell them.
    """
    rest = settings.label_smoothing, settings.implementation, settings.tile
    if settings.duplicates == "negative":
        return PairOptions(None, "positive", *rest)
    if context.labels is None:
        raise UserError(
            f"objective.duplicates={settings.duplicates!r} needs the ids of captions and pictures: "
            "expected ObjectiveContext(labels=PairLabels(...)), got none"
        )
    return PairOptions(context.labels, settings.duplicates, *rest)


def pictures_of(settings: ContrastiveConfig, outputs: TowerOutput) -> list[Float[Tensor, "batch embed"]]:
    """The embeddings that meet the captions, each in a loss of its own."""
    if settings.image_view is None:
        return [outputs.image_embed]
    embeds = [view.embed for view in outputs.views[settings.image_view]]
    return [embed for embed in embeds if embed is not None]


def mean_output(found: Sequence[ContrastiveLoss]) -> ObjectiveOutput:
    """The mean of losses over several views of the pictures, with the by-products of the first."""
    first = output_of(found[0])
    return first if len(found) == 1 else replace(first, loss=sum(one.loss for one in found) / len(found))


def output_of(found: ContrastiveLoss) -> ObjectiveOutput:
    """The loss with its by-products under the names they are logged under."""
    report = {
        "in_batch_top_1": found.top_1,
        "positive_similarity": found.positive_similarity,
        "negative_similarity": found.negative_similarity,
    }
    return ObjectiveOutput(loss=found.loss, report=report)
