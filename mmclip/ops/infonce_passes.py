"""The two passes of InfoNCE over its logits, one tile of which exists at a time. The formulas stand in `infonce_tiled`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.notes import Notes
from mmclip.ops.pairs import Pairs
from mmclip.ops.tiles import OnlineSum, Workspace, blocks

Rows = Float[Tensor, "batch embed"]
Columns = Float[Tensor, "global_texts embed"]


@dataclass(frozen=True)
class Statistics:
    """What one pass over the logits leaves behind: vectors only."""

    rows: OnlineSum
    columns: OnlineSum
    notes: Notes


@dataclass(frozen=True)
class Side:
    """One direction's part of the gradient: a row (or column) has the softmax e^(s - max) * softmax of its logits."""

    max: Float[Tensor, " length"]
    softmax: Float[Tensor, " length"]
    """Weight of the term over the sum of exponentials."""
    positive: Float[Tensor, " length"]
    """What each positive of the row takes off."""
    every: Float[Tensor, " length"]
    """What label smoothing takes off each entry that is not left out."""

    def times(self, factor: Float[Tensor, ""]) -> "Side":
        """The part of a loss that is multiplied by `factor`."""
        return Side(self.max, self.softmax * factor, self.positive * factor, self.every * factor)


@dataclass(frozen=True)
class Kernels:
    """The two passes over the logits. Another implementation of these two is another implementation of the loss."""

    statistics: Callable[..., Statistics]
    gradients: Callable[..., tuple[Tensor, Tensor | None, Tensor]]


def statistics(image: Rows, text: Columns, scale: Float[Tensor, ""], pairs: Pairs, tile: int) -> Statistics:
    """The forward pass over this rank's rows."""
    row_sums, column_sums = OnlineSum(image, len(image), 1), OnlineSum(image, len(text), 0)
    notes = Notes(image, len(image), len(text))
    space = Workspace(image, min(tile, len(image)), min(tile, len(text)), 2)
    for rows in blocks(len(image), tile):
        scaled = image[rows] * scale
        for columns in blocks(len(text), tile):
            logits, work = space.tiles(rows, columns)
            torch.mm(scaled, text[columns].T, out=logits)
            notes.read(logits, pairs.tile(rows, columns), rows, columns)
            row_sums.update(logits, rows, work)
            column_sums.update(logits, columns, work)
    return Statistics(row_sums, column_sums, notes)


def gradients(
    image: Rows,
    text: Columns,
    scale: Float[Tensor, ""],
    pairs: Pairs,
    sides: tuple[Side, Side],
    smoothed: bool,
    needs_text: bool,
    tile: int,
) -> tuple[Rows, Columns | None, Float[Tensor, ""]]:
    """The backward pass: the gradients of the images, of the texts (over these rows alone) and of the scale."""
    row, column = sides
    image_grad, scale_grad = torch.zeros_like(image), torch.zeros_like(scale)
    text_grad = torch.zeros_like(text) if needs_text else None
    space = Workspace(image, min(tile, len(image)), min(tile, len(text)), 2)
    for rows in blocks(len(image), tile):
        scaled = image[rows] * scale
        for columns in blocks(len(text), tile):
            logits, gradient = space.tiles(rows, columns)
            kinds = pairs.tile(rows, columns)
            torch.mm(scaled, text[columns].T, out=logits)
            kinds.leave_out(logits)
            torch.sub(logits, row.max[rows, None], out=gradient).exp_().mul_(row.softmax[rows, None])
            gradient.addcmul_(logits.sub_(column.max[columns]).exp_(), column.softmax[columns])
            if smoothed:
                gradient.sub_(row.every[rows, None]).sub_(column.every[columns])
            kinds.pull(gradient, row.positive[rows], column.positive[columns])
            image_grad[rows].addmm_(gradient, text[columns])
            if text_grad is not None:
                text_grad[columns].addmm_(gradient.T, scaled)
        scale_grad += (image_grad[rows] * image[rows]).sum()
        image_grad[rows] *= scale
    return image_grad, text_grad, scale_grad


TILED = Kernels(statistics, gradients)
"""In torch's own operations, on any device and in any precision."""
