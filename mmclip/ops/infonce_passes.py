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
    rows, columns = len(image), len(text)
    found = Statistics(OnlineSum(image, rows, 1), OnlineSum(image, columns, 0), Notes(image, rows, columns))
    space = Workspace(image, min(tile, rows), min(tile, columns), 2)
    for across in blocks(rows, tile):
        scaled = image[across] * scale
        for down in blocks(columns, tile):
            logits, work = space.tiles(across, down)
            torch.mm(scaled, text[down].T, out=logits)
            found.notes.read(logits, pairs.tile(across, down), across, down)
            found.rows.update(logits, across, work)
            found.columns.update(logits, down, work)
    return found


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
    for across in blocks(len(image), tile):
        scaled = image[across] * scale
        for down in blocks(len(text), tile):
            logits, gradient = space.tiles(across, down)
            kinds = pairs.tile(across, down)
            torch.mm(scaled, text[down].T, out=logits)
            kinds.leave_out(logits)
            torch.sub(logits, row.max[across, None], out=gradient).exp_().mul_(row.softmax[across, None])
            gradient.addcmul_(logits.sub_(column.max[down]).exp_(), column.softmax[down])
            if smoothed:
                gradient.sub_(row.every[across, None]).sub_(column.every[down])
            kinds.pull(gradient, row.positive[across], column.positive[down])
            image_grad[across].addmm_(gradient, text[down])
            if text_grad is not None:
                text_grad[down].addmm_(gradient.T, scaled)
        scale_grad += (image_grad[across] * image[across]).sum()
        image_grad[across] *= scale
    return image_grad, text_grad, scale_grad


TILED = Kernels(statistics, gradients)
"""In torch's own operations, on any device and in any precision."""
