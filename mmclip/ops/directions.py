"""Similarities of this rank's rows with the rows of all ranks, from pictures to captions and back."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.errors import UserError
from mmclip.ops.gather import all_gather, gather, rank, world_size
from mmclip.ops.pairs import agree
from mmclip.ops.tiles import compute_dtype, without_autocast


@dataclass(frozen=True)
class Direction:
    """The candidates of each anchor: a mean over anchors is this rank's part of that over the global batch."""

    cosine: Float[Tensor, "batch global_batch"]
    positive: Bool[Tensor, "batch global_batch"]
    """The anchor's own partner alone."""
    negative: Bool[Tensor, "batch global_batch"]
    """All others, but those that agree with the anchor in a label."""


def directions(
    image_embed: Float[Tensor, "batch embed"], text_embed: Float[Tensor, "batch embed"], labels: PairLabels | None
) -> tuple[Direction, Direction]:
    """From pictures to captions, and from captions to pictures; candidates carry their gradient to the rank they are of.

    In fp32, or fp64 where an input is. Without labels every other pair is a negative.

    Raises:
        UserError: there is one pair in all, which has no negative.
    """
    if len(image_embed) * world_size() < 2:
        raise UserError("expected a global batch of at least 2 pairs, got 1, which has no negative")
    dtype = compute_dtype(image_embed, text_embed)
    image, text = image_embed.to(dtype), text_embed.to(dtype)
    own = own_column(image)
    if labels is None:
        return _direction(image, text, own, ~own), _direction(text, image, own, ~own)
    to_text, to_image = other_samples(labels.image, labels.text), other_samples(labels.text, labels.image)
    return _direction(image, text, own, to_text & ~own), _direction(text, image, own, to_image & ~own)


def own_column(rows: Float[Tensor, "batch embed"]) -> Bool[Tensor, "batch global_batch"]:
    """Where each row of this rank stands among those of all ranks."""
    columns = torch.arange(len(rows) * world_size(), device=rows.device)
    return columns == columns[: len(rows), None] + rank() * len(rows)


def other_samples(
    labels: Int[Tensor, "batch factor"], others: Int[Tensor, "batch factor"]
) -> Bool[Tensor, "batch global_batch"]:
    """Which rows of all ranks agree with each of this rank's in no factor."""
    return ~agree(labels, all_gather(others))


def _direction(rows: Tensor, columns: Tensor, own: Tensor, negative: Tensor) -> Direction:
    with without_autocast(rows.device):
        return Direction(rows @ gather(columns).T, own, negative)
