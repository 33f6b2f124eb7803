"""The pairwise sigmoid loss tile by tile, with its gradients in the same pass: each pair is a term of its own.

With s_ij = scale <x_i, y_j> + bias, z_ij = s_ij for positives and -s_ij for negatives, and e the label smoothing:

    loss = (1 / images) sum_ij softplus(-z_ij) + (e / 2) z_ij        G_ij = d loss / d s_ij = -+ (sigmoid(-z_ij) - e / 2)

Three products a tile and one pass. On several ranks texts are gathered and their gradient is reduce-scattered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmclip.ops.gather import all_gather, reduce_scatter
from mmclip.ops.notes import Notes
from mmclip.ops.pairs import ContrastiveLoss, Pairs
from mmclip.ops.tiles import Workspace, blocks, without_autocast

LINEAR_FROM = 40.0
"""Above it softplus is its argument: exact in double precision, and exp does not overflow in single."""


@dataclass(frozen=True)
class Gradients:
    """Of the images, the texts (over these rows alone), the scale and the bias; not yet divided by the images."""

    image: Float[Tensor, "batch embed"]
    text: Float[Tensor, "global_texts embed"] | None
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]


Kernel = Callable[..., tuple[Float[Tensor, ""], Notes, Gradients | None]]
"""The pass over the logits. Another implementation of it is another implementation of the loss."""


def sweep(
    image: Float[Tensor, "batch embed"],
    text: Float[Tensor, "global_texts embed"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    pairs: Pairs,
    label_smoothing: float,
    needs: tuple[bool, bool],
    tile: int,
) -> tuple[Float[Tensor, ""], Notes, Gradients | None]:
    """Sum of softplus(-z) over all pairs, notes of the logits without their bias, and gradients.

    `needs` says whether any gradient is wanted, and whether that of the texts is.
    """
    total, notes = torch.zeros_like(scale), Notes(image, len(image), len(text))
    found = _no_gradients(image, text, scale, needs[1]) if needs[0] else None
    space = Workspace(image, min(tile, len(image)), min(tile, len(text)), 1)
    for rows in blocks(len(image), tile):
        scaled = image[rows] * scale
        for columns in blocks(len(text), tile):
            (logits,), kinds = space.tiles(rows, columns), pairs.tile(rows, columns)
            torch.mm(scaled, text[columns].T, out=logits)
            notes.read(logits, kinds, rows, columns)
            logits.add_(bias)
            kinds.negate_positives(logits)
            total += F.softplus(logits, threshold=LINEAR_FROM).sum()
            if found is None:
                continue
            gradient = logits.sigmoid_().sub_(label_smoothing / 2) if label_smoothing else logits.sigmoid_()
            kinds.negate_positives(gradient)
            if label_smoothing and kinds.ignored is not None:
                gradient.masked_fill_(kinds.ignored, 0)
            found.bias.add_(gradient.sum())
            found.image[rows].addmm_(gradient, text[columns])
            if found.text is not None:
                found.text[columns].addmm_(gradient.T, scaled)
        if found is not None:
            found.scale.add_((found.image[rows] * image[rows]).sum())
            found.image[rows] *= scale
    return total, notes, found


def _no_gradients(image: Tensor, text: Tensor, scale: Tensor, needs_text: bool) -> Gradients:
    text_grad = torch.zeros_like(text) if needs_text else None
    return Gradients(torch.zeros_like(image), text_grad, torch.zeros_like(scale), torch.zeros_like(scale))


@dataclass(frozen=True)
class Problem:
    """What a loss depends on besides its tensors."""

    pairs: Pairs
    label_smoothing: float
    tile: int
    kernel: Kernel = sweep


def sigmoid_tiled(
    image: Float[Tensor, "batch embed"],
    text: Float[Tensor, "texts embed"],
    scale: Tensor,
    bias: Tensor,
    problem: Problem,
) -> ContrastiveLoss:
    """The loss of embeddings in the precision it is accumulated in; `scale` and `bias` have one element each."""
    inputs, wanted = (image, text, scale, bias), torch.is_grad_enabled()
    return ContrastiveLoss(*_Sigmoid.apply(*inputs, problem, wanted))  # pyright: ignore[reportGeneralTypeIssues]


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, problem: Problem, wanted: bool
    ) -> tuple[Tensor, ...]:
        needs = wanted and any(ctx.needs_input_grad), ctx.needs_input_grad[1]
        output, ctx.gradients = _run(image, text, scale, bias, problem, needs)
        ctx.problem = problem
        ctx.save_for_backward(image, text, scale, bias)
        ctx.mark_non_differentiable(*output[1:])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Handed out once and multiplied in place, which spares a copy; a second backward through a kept graph computes
        # them again.
        gradients, ctx.gradients = ctx.gradients, None
        inputs: tuple[Tensor, Tensor, Tensor, Tensor] = ctx.saved_tensors
        if gradients is None:
            gradients = _run(*inputs, ctx.problem, (True, ctx.needs_input_grad[1]))[1]
        assert gradients is not None, "asked for"
        found = [gradients.image, gradients.text, gradients.scale, gradients.bias]
        del gradients
        for number, (needed, tensor) in enumerate(zip(ctx.needs_input_grad[:4], inputs, strict=True)):
            found[number] = found[number].mul_(output[0]).reshape(tensor.shape) if needed else None
        return *found, None, None


def _run(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, problem: Problem, needs: tuple[bool, bool]
) -> tuple[tuple[Tensor, ...], Gradients | None]:
    """The loss with its by-products, and the gradients of this rank's tensors."""
    with without_autocast(image.device):
        everything, factor, pairs = all_gather(text), scale.reshape(()), problem.pairs
        smoothing, share = problem.label_smoothing, 1 / len(image)  # the ranks over the images of all ranks
        total, notes, found = problem.kernel(
            image, everything, factor, bias.reshape(()), pairs, smoothing, needs, problem.tile
        )
        if smoothing:
            total = total + smoothing / 2 * _signed_sum(notes, image, everything, factor, bias.reshape(()))
        output = total * share, *notes.by_products(image, everything, factor, notes.counts(pairs))
        if found is None:
            return output, None
        own_text = None if found.text is None else reduce_scatter(found.text).mul_(share)
        return output, Gradients(found.image.mul_(share), own_text, found.scale.mul_(share), found.bias.mul_(share))


def _signed_sum(notes: Notes, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The sum of z over all pairs that are not left out, from the sums that there are."""
    positive, ignored = (sums.row_sum.sum() + bias * sums.row_count.sum() for sums in (notes.positive, notes.ignored))
    every = scale * (image.sum(0) @ text.sum(0)) + bias * (len(image) * len(text))
    return 2 * positive - (every - ignored)
