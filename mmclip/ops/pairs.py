"""Which pairs of an image and a text are positives, which negatives, and which neither."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.errors import UserError
from mmclip.ops.gather import all_gather, rank

Duplicates = Literal["positive", "ignored"]
"""What a pair is that agrees in a label: a further positive, whose row spreads its target evenly over its positives
(UniCL, Yang et al. 2022, equation 3), or neither positive nor negative."""


@dataclass(frozen=True)
class ContrastiveLoss:
    """A loss and what its tiles gave away for nothing; the mean over ranks of each is that of the joined batch."""

    loss: Float[Tensor, ""]
    """This rank's partial sum times the number of ranks; the only field with a gradient."""
    top_1: Float[Tensor, ""]
    """Share of images whose most similar text is a positive. A tie with a negative does not count as right."""
    positive_similarity: Float[Tensor, ""]
    """Mean cosine of the positives (NaN at scale 0)."""
    negative_similarity: Float[Tensor, ""]
    """Mean cosine of the negatives, NaN where there is none."""


def agree(
    image_labels: Int[Tensor, "row factor"], text_labels: Int[Tensor, "column factor"]
) -> Bool[Tensor, "row column"]:
    """Whether the two have the same label in any factor."""
    found = image_labels[:, 0, None] == text_labels[None, :, 0]
    for factor in range(1, image_labels.shape[1]):
        found |= image_labels[:, factor, None] == text_labels[None, :, factor]
    return found


@dataclass(frozen=True)
class Pairs:
    """The kinds of all pairs of this rank's images (rows) and the texts of all ranks (columns), never as a matrix.

    Without labels the text at an image's own place is its positive and all others are negatives.
    """

    own_column: int
    """The column of row 0's own text; row i's is `own_column` + i."""
    image_labels: Int[Tensor, "batch factor"] | None = None
    text_labels: Int[Tensor, "global_texts factor"] | None = None
    duplicates: Duplicates = "positive"

    @property
    def has_labels(self) -> bool:
        """Whether rows differ in how many positives and negatives they have."""
        return self.image_labels is not None

    def tile(self, rows: slice, columns: slice) -> "TilePairs":
        """The kinds of the pairs of some rows and some columns."""
        offset = self.own_column + rows.start - columns.start
        crosses = -(rows.stop - rows.start) < offset < columns.stop - columns.start
        diagonal = offset if crosses else None
        if self.image_labels is None or self.text_labels is None:
            return TilePairs(diagonal)
        found = agree(self.image_labels[rows], self.text_labels[columns])
        if self.duplicates == "positive":
            return TilePairs(None, positive=found)
        if diagonal is not None:
            found.diagonal(diagonal).fill_(False)
        return TilePairs(diagonal, ignored=found)


def pairs_of(images: int, texts: int, labels: PairLabels | None, duplicates: Duplicates) -> Pairs:
    """The pairs of this rank's rows; gathers the labels of the texts.

    Raises:
        UserError: the labels do not fit the embeddings, or there is no own text for each image where one is needed.
    """
    if images != texts and (labels is None or duplicates == "ignored"):
        raise UserError(
            f"{images} images and {texts} texts: expected one text an image; "
            "other numbers need labels, and duplicates='positive'"
        )
    if labels is None:
        return Pairs(rank() * images)
    shapes = tuple(labels.image.shape), tuple(labels.text.shape)
    if [len(labels.image), len(labels.text)] != [images, texts] or shapes[0][1:] != shapes[1][1:] or not shapes[0][1]:
        raise UserError(
            f"labels of the shapes {shapes[0]} and {shapes[1]}: expected a row for each of {images} images and "
            f"{texts} texts, and the same columns"
        )
    return Pairs(rank() * images, labels.image, all_gather(labels.text), duplicates)


@dataclass(frozen=True)
class TilePairs:
    """The kinds of the pairs in one tile: positives as a diagonal or as a mask, and a mask of what is left out."""

    diagonal: int | None
    """Its offset in the tile; None where it does not cross it, or where labels decide."""
    positive: Bool[Tensor, "row column"] | None = None
    ignored: Bool[Tensor, "row column"] | None = None

    def own(self, tile: Float[Tensor, "row column"]) -> tuple[slice, slice]:
        """The rows and the columns of the tile that the diagonal crosses."""
        assert self.diagonal is not None, "asked only where it crosses the tile"
        row, column = max(-self.diagonal, 0), max(self.diagonal, 0)
        length = min(tile.shape[0] - row, tile.shape[1] - column)
        return slice(row, row + length), slice(column, column + length)

    def leave_out(self, logits: Float[Tensor, "row column"]) -> None:
        """Set what is neither positive nor negative to minus infinity, in place."""
        if self.ignored is not None:
            logits.masked_fill_(self.ignored, -torch.inf)

    def negate_positives(self, values: Float[Tensor, "row column"]) -> None:
        """Turn the sign of the positives, in place."""
        if self.positive is not None:
            torch.where(self.positive, -values, values, out=values)
        elif self.diagonal is not None:
            values.diagonal(self.diagonal).neg_()

    def pull(
        self,
        gradient: Float[Tensor, "row column"],
        row_weight: Float[Tensor, " row"],
        column_weight: Float[Tensor, " column"],
    ) -> None:
        """Take both weights off the positives, and everything off what is left out, in place."""
        if self.positive is not None:
            gradient.sub_((row_weight[:, None] + column_weight).masked_fill_(~self.positive, 0))
        elif self.diagonal is not None:
            rows, columns = self.own(gradient)
            gradient.diagonal(self.diagonal).sub_(row_weight[rows] + column_weight[columns])
        if self.ignored is not None:
            gradient.masked_fill_(self.ignored, 0)
