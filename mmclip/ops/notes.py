"""What is read off the tiles of a loss on the way: sums of the positives and of what is left out, and the best of each row."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.ops.gather import all_sum, world_size
from mmclip.ops.pairs import Pairs, TilePairs


class MaskedSums:
    """Sum and number of some entries of the matrix, by row and by column."""

    def __init__(self, like: Float[Tensor, "_ _"], rows: int, columns: int) -> None:
        self.row_sum, self.row_count = like.new_zeros(2, rows)
        self.column_sum, self.column_count = like.new_zeros(2, columns)

    def add(
        self,
        values: Float[Tensor, "row column"],
        mask: Bool[Tensor, "row column"],
        rows: slice,
        columns: slice,
    ) -> None:
        """Take in the entries of a tile that `mask` names."""
        chosen = torch.where(mask, values, 0)
        self.row_sum[rows] += chosen.sum(1)
        self.column_sum[columns] += chosen.sum(0)
        self.row_count[rows] += mask.sum(1)
        self.column_count[columns] += mask.sum(0)

    def add_diagonal(self, values: Float[Tensor, " length"], row: int, column: int) -> None:
        """Take in a diagonal that starts at an entry."""
        length = len(values)
        self.row_sum[row : row + length] += values
        self.column_sum[column : column + length] += values
        self.row_count[row : row + length] += 1
        self.column_count[column : column + length] += 1


class Notes:
    """What is read off each tile besides the loss: the sums of positives and of what is left out, and the best of a row."""

    def __init__(self, like: Float[Tensor, "_ _"], rows: int, columns: int) -> None:
        self.positive = MaskedSums(like, rows, columns)
        self.ignored = MaskedSums(like, rows, columns)
        self.best_positive, self.best_negative = like.new_full((2, rows), -torch.inf)

    def read(self, logits: Float[Tensor, "row column"], kinds: TilePairs, rows: slice, columns: slice) -> None:
        """Take in a tile of logits, and set what is left out to minus infinity in it."""
        if kinds.ignored is not None:
            self.ignored.add(logits, kinds.ignored, rows, columns)
            kinds.leave_out(logits)
        if kinds.positive is not None:
            self.positive.add(logits, kinds.positive, rows, columns)
            best = torch.where(kinds.positive, logits, -torch.inf).amax(1)
            torch.maximum(self.best_positive[rows], best, out=self.best_positive[rows])
            others = torch.where(kinds.positive, -torch.inf, logits).amax(1)
        elif kinds.diagonal is not None:
            others = self._read_diagonal(logits, kinds, rows, columns)
        else:
            others = logits.amax(1)
        torch.maximum(self.best_negative[rows], others, out=self.best_negative[rows])

    def _read_diagonal(self, logits: Tensor, kinds: TilePairs, rows: slice, columns: slice) -> Tensor:
        assert kinds.diagonal is not None, "asked only where it crosses the tile"
        diagonal = logits.diagonal(kinds.diagonal)
        own = diagonal.clone()
        own_rows, own_columns = kinds.own(logits)
        row, column = rows.start + own_rows.start, columns.start + own_columns.start
        self.positive.add_diagonal(own, row, column)
        self.best_positive[row : row + len(own)] = own
        diagonal.fill_(-torch.inf)
        others = logits.amax(1)
        diagonal.copy_(own)
        return others

    def top_1(self) -> Float[Tensor, ""]:
        """Share of rows whose best positive beats every negative."""
        return (self.best_positive > self.best_negative).to(self.best_positive.dtype).mean()

    def counts(self, pairs: Pairs) -> "Counts":
        """The numbers of pairs of each kind on all ranks; no word between ranks where there are no labels."""
        rows, columns = len(self.best_positive), len(self.positive.column_count)
        every = world_size() * rows
        if not pairs.has_labels:
            own, none = self.best_positive.new_full((), every), self.best_positive.new_zeros(())
            return Counts(own, none, own * (columns - 1), own)
        found = [self.positive.row_count.sum(), self.ignored.row_count.sum(), (self.positive.row_count > 0).sum()]
        positive, ignored, anchors = all_sum(torch.stack([value.to(self.best_positive.dtype) for value in found]))
        return Counts(positive, ignored, every * columns - positive - ignored, anchors)

    def by_products(
        self,
        image: Float[Tensor, "batch embed"],
        text: Float[Tensor, "global_texts embed"],
        scale: Float[Tensor, ""],
        counts: "Counts",
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """In-batch top-1, mean similarity of the positives, and that of the negatives: parts whose mean is the whole's.

        The sum of all similarities is the product of the sums of both sides, so no entry is visited for the negatives.
        """
        positive, ignored = (sums.row_sum.sum() / scale for sums in (self.positive, self.ignored))
        negative = image.sum(0) @ text.sum(0) - positive - ignored
        negative = torch.where(counts.negative > 0, negative, torch.nan)  # its rounding over 0 would be infinite
        return self.top_1(), world_size() * positive / counts.positive, world_size() * negative / counts.negative


@dataclass(frozen=True)
class Counts:
    """Pairs of each kind on all ranks, and the rows that have a positive."""

    positive: Float[Tensor, ""]
    ignored: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    anchors: Float[Tensor, ""]
