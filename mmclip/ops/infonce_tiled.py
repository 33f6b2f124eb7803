"""Symmetric InfoNCE tile by tile: no more than one tile of logits exists, forward and backward.

With s_ij = scale <x_i, y_j>, r_i the log-sum-exp of row i and c_j that of column j, and a_i, b_j the weights of the terms:

    loss     = sum_i a_i (r_i - t_i) + sum_j b_j (c_j - t'_j)        t, t' the mean logits under the targets q, q'
    G_ij     = a_i (e^(s_ij - r_i) - q_ij) + b_j (e^(s_ij - c_j) - q'_ij)                        = d loss / d s_ij
    d x      = scale G y        d y = scale G^T x        d scale = sum_ij G_ij <x_i, y_j> = sum (G y) * x

So forward makes one product a tile, for rows and columns alike, and backward three: the logits again, and one for each side.
Of the logits only the maximum and the sum of each row and column survive until then.

On several ranks the rows are this rank's images and the columns all texts: texts are gathered, images never. A column's sum is
put together from the ranks' parts, and the gradient of the texts is reduce-scattered.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmclip.ops.gather import all_gather, all_max, all_sum, rank, reduce_scatter, world_size
from mmclip.ops.infonce_passes import TILED, Kernels, Side, Statistics
from mmclip.ops.notes import Notes
from mmclip.ops.pairs import ContrastiveLoss, Pairs
from mmclip.ops.tiles import OnlineSum, without_autocast


@dataclass(frozen=True)
class Problem:
    """What a loss depends on besides its tensors."""

    pairs: Pairs
    label_smoothing: float
    tile: int
    kernels: Kernels = TILED


def infonce_tiled(
    image: Float[Tensor, "batch embed"], text: Float[Tensor, "texts embed"], scale: Tensor, problem: Problem
) -> ContrastiveLoss:
    """The loss of embeddings that are in the precision it is accumulated in; `scale` has one element."""
    return ContrastiveLoss(*_InfoNCE.apply(image, text, scale, problem))  # pyright: ignore[reportGeneralTypeIssues]


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, problem: Problem) -> tuple[Tensor, ...]:
        with without_autocast(image.device):
            everything, factor = all_gather(text), scale.reshape(())
            found = problem.kernels.statistics(image, everything, factor, problem.pairs, problem.tile)
            output, sides = _join(found, image, everything, factor, problem)
        ctx.problem = problem
        ctx.save_for_backward(image, everything, scale, *(v for side in sides for v in vars(side).values()))
        ctx.mark_non_differentiable(*output[1:])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, text, scale, *vectors = ctx.saved_tensors
        problem, (needs_image, needs_text, needs_scale, _) = ctx.problem, ctx.needs_input_grad
        sides = Side(*vectors[:4]).times(output[0]), Side(*vectors[4:]).times(output[0])
        with without_autocast(image.device):
            image_grad, text_grad, scale_grad = problem.kernels.gradients(
                image, text, scale.reshape(()), problem.pairs, sides, problem.label_smoothing > 0, needs_text, problem.tile
            )  # fmt: skip
            own_text_grad = None if text_grad is None else reduce_scatter(text_grad)
        scale_grad = scale_grad.reshape(scale.shape)
        return image_grad if needs_image else None, own_text_grad, scale_grad if needs_scale else None, None


def _join(
    found: Statistics, image: Tensor, text: Tensor, scale: Tensor, problem: Problem
) -> tuple[tuple[Tensor, ...], tuple[Side, Side]]:
    """The loss and its by-products, and what backward needs, from the statistics of all ranks."""
    notes, texts = found.notes, len(text) // world_size()
    counts = notes.counts(problem.pairs)
    _join_columns(found, problem.pairs)
    row_valid, column_valid = _valid_sums(notes, image, text, scale, problem.label_smoothing)
    positive, own = notes.positive, slice(rank() * texts, (rank() + 1) * texts)
    row_terms, row = _direction(
        found.rows, positive.row_sum, positive.row_count, counts.anchors, row_valid, problem.label_smoothing
    )
    with_positive = (positive.column_count > 0).sum().to(text.dtype)  # an integer's quotient would be single precision
    column_terms, column = _direction(
        found.columns, positive.column_sum, positive.column_count, with_positive, column_valid, problem.label_smoothing
    )
    loss = row_terms.sum() + column_terms[own].sum()
    return (loss, *notes.by_products(image, text, scale, counts)), (row, column)


def _join_columns(found: Statistics, pairs: Pairs) -> None:
    """Make the sums of columns those over the rows of all ranks, in place."""
    if world_size() == 1:
        return
    columns, positive, ignored = found.columns, found.notes.positive, found.notes.ignored
    greatest = all_max(columns.max)
    columns.sum *= (columns.max - greatest).exp_()
    columns.max = greatest
    if not pairs.has_labels:
        # The positive of an own column stands in an own row, and no other column's term is computed here.
        columns.sum, positive.column_count = all_sum(columns.sum), torch.ones_like(columns.sum)
        return
    (columns.sum, positive.column_sum, positive.column_count, ignored.column_sum, ignored.column_count) = all_sum(
        torch.stack([columns.sum, positive.column_sum, positive.column_count, ignored.column_sum, ignored.column_count])
    )


def _valid_sums(
    notes: Notes, image: Tensor, text: Tensor, scale: Tensor, label_smoothing: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | tuple[None, None]:
    """Sum and number of the logits of each row, and of each column, that are not left out: what smoothing spreads over."""
    if not label_smoothing:
        return None, None
    ignored, rows = notes.ignored, world_size() * len(image)
    row_sum, column_sum = image @ text.sum(0) * scale, text @ all_sum(image.sum(0)) * scale
    return (
        (row_sum - ignored.row_sum, len(text) - ignored.row_count),
        (column_sum - ignored.column_sum, rows - ignored.column_count),
    )


def _direction(
    lse: OnlineSum,
    positive_sum: Float[Tensor, " length"],
    positive_count: Float[Tensor, " length"],
    anchors: Float[Tensor, ""],
    valid: tuple[Float[Tensor, " length"], Float[Tensor, " length"]] | None,
    label_smoothing: float,
) -> tuple[Float[Tensor, " length"], Side]:
    """The term of each row or column that has a positive, weighted, and its part of the gradient."""
    weight = torch.where(positive_count > 0, world_size() / (2 * anchors.clamp(min=1)), 0)
    share = (1 - label_smoothing) / positive_count.clamp(min=1)
    target, every = share * positive_sum, torch.zeros_like(weight)
    if valid is not None:
        every = label_smoothing / valid[1]
        target = target + every * valid[0]
    # Maximum less target first: both are large late in training, their difference and the logarithm are small.
    terms = weight * ((lse.max - target) + lse.sum.log())
    return terms, Side(lse.max, weight / lse.sum, weight * share, weight * every)
