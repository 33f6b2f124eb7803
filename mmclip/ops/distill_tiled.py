"""Distillation of a teacher's similarities tile by tile; the scheme, and the exchange between ranks, of `infonce_tiled`.

With s the student's logits, t the teacher's, and softmaxes over rows (p) and columns (q):

    loss = -1/2 mean_i sum_j p_ij(t) log p_ij(s) - 1/2 mean_j sum_i q_ij(t) log q_ij(s)
    G_ij = d loss / d s_ij = (p_ij(s) - p_ij(t)) / 2 images + (q_ij(s) - q_ij(t)) / 2 texts
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmclip.ops.gather import all_gather, all_max, all_sum, rank, reduce_scatter
from mmclip.ops.tiles import OnlineSum, Workspace, blocks, without_autocast


@dataclass(frozen=True)
class Embeddings:
    """One model's side: this rank's images, the texts of all ranks, and its scale."""

    image: Float[Tensor, "batch embed"]
    text: Float[Tensor, "global_texts embed"]
    scale: Float[Tensor, ""]

    def logits(self, rows: slice, columns: slice, out: Float[Tensor, "row column"]) -> None:
        """Write a tile of logits."""
        torch.mm(self.image[rows] * self.scale, self.text[columns].T, out=out)


@dataclass(frozen=True)
class Direction:
    """The sums of rows (or columns), and for each the student's logit summed under the teacher's exponentials."""

    student: OnlineSum
    teacher: OnlineSum
    mixed: Float[Tensor, " length"]

    def update(self, student: Tensor, teacher: Tensor, part: slice, work: Tensor) -> None:
        """Take in a tile of each."""
        self.student.update(student, part, work)
        factor = self.teacher.update(teacher, part, work)
        self.mixed[part] = self.mixed[part] * factor + work.mul_(student).sum(self.teacher.dim)

    def joined(self) -> "Direction":
        """The same over the tiles of all ranks."""
        student, teacher = self.student, self.teacher
        greatest = all_max(torch.stack([student.max, teacher.max]))
        factors = (torch.stack([student.max, teacher.max]) - greatest).exp_()
        parts = torch.stack([student.sum * factors[0], teacher.sum * factors[1], self.mixed * factors[1]])
        student.max, teacher.max = greatest
        student.sum, teacher.sum, mixed = all_sum(parts)
        return Direction(student, teacher, mixed)

    def terms(self) -> Float[Tensor, " length"]:
        """The cross-entropy of each row."""
        return (self.student.max - self.mixed / self.teacher.sum) + self.student.sum.log()

    def softmaxes(self, weight: float) -> tuple[Tensor, ...]:
        """Maximum and weight over sum, of the student and of the teacher: what backward needs."""
        return self.student.max, weight / self.student.sum, self.teacher.max, weight / self.teacher.sum


@dataclass(frozen=True)
class Kernels:
    """The two passes over the logits. Another implementation of these two is another implementation of the loss."""

    statistics: Callable[..., tuple[Direction, Direction]]
    gradients: Callable[..., tuple[Tensor, Tensor | None, Tensor]]


def statistics(student: Embeddings, teacher: Embeddings, tile: int) -> tuple[Direction, Direction]:
    """The forward pass over this rank's rows."""
    like, images, texts = student.image, len(student.image), len(student.text)
    row, column = (
        Direction(OnlineSum(like, length, dim), OnlineSum(like, length, dim), like.new_zeros(length))
        for length, dim in ((images, 1), (texts, 0))
    )
    space = Workspace(like, min(tile, images), min(tile, texts), 3)
    for rows in blocks(images, tile):
        for columns in blocks(texts, tile):
            own, taught, work = space.tiles(rows, columns)
            student.logits(rows, columns, own)
            teacher.logits(rows, columns, taught)
            row.update(own, taught, rows, work)
            column.update(own, taught, columns, work)
    return row, column


def gradients(
    student: Embeddings,
    teacher: Embeddings,
    sides: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    needs_text: bool,
    tile: int,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The backward pass: the gradients of the student's images, texts (over these rows alone) and scale."""
    image, text, scale = student.image, student.text, student.scale
    image_grad, scale_grad = torch.zeros_like(image), torch.zeros_like(scale)
    text_grad = torch.zeros_like(text) if needs_text else None
    space = Workspace(image, min(tile, len(image)), min(tile, len(text)), 3)
    for rows in blocks(len(image), tile):
        for columns in blocks(len(text), tile):
            own, taught, gradient = space.tiles(rows, columns)
            student.logits(rows, columns, own)
            teacher.logits(rows, columns, taught)
            row = [vector[rows, None] for vector in sides[0]]
            column = [vector[columns] for vector in sides[1]]
            torch.sub(own, row[0], out=gradient).exp_().mul_(row[1])
            gradient.addcmul_(own.sub_(column[0]).exp_(), column[1])
            # The student's tile has been used up and takes the teacher's rows.
            torch.sub(taught, row[2], out=own).exp_()
            gradient.addcmul_(own, row[3], value=-1)
            gradient.addcmul_(taught.sub_(column[2]).exp_(), column[3], value=-1)
            image_grad[rows].addmm_(gradient, text[columns])
            if text_grad is not None:
                text_grad[columns].addmm_(gradient.T, image[rows] * scale)
        scale_grad += (image_grad[rows] * image[rows]).sum()
        image_grad[rows] *= scale
    return image_grad, text_grad, scale_grad


TILED = Kernels(statistics, gradients)
"""In torch's own operations, on any device and in any precision."""


def distill_tiled(
    student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor, Tensor], tile: int, kernels: Kernels = TILED
) -> Float[Tensor, ""]:
    """The loss of (image, text, scale) of both models, in the precision it is accumulated in."""
    return _Distill.apply(*student, *teacher, tile, kernels)  # pyright: ignore[reportReturnType]


class _Distill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        tensors, (ctx.tile, ctx.kernels) = arguments[:6], arguments[6:]
        image, text, scale, teacher_image, teacher_text, teacher_scale = tensors
        with without_autocast(image.device):
            student = Embeddings(image, all_gather(text), scale.reshape(()))
            teacher = Embeddings(teacher_image, all_gather(teacher_text), teacher_scale.reshape(()))
            row, column = ctx.kernels.statistics(student, teacher, ctx.tile)
            column = column.joined()
            weights = 0.5 / len(image), 0.5 / len(text)  # the ranks over twice the rows of all ranks
            own = slice(rank() * len(text), (rank() + 1) * len(text))
            loss = weights[0] * row.terms().sum() + weights[1] * column.terms()[own].sum()
        ctx.save_for_backward(
            *(image, student.text, scale, teacher_image, teacher.text, teacher_scale),
            *(*row.softmaxes(weights[0]), *column.softmaxes(weights[1])),
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, text, scale, teacher_image, teacher_text, teacher_scale, *vectors = ctx.saved_tensors
        for number in (1, 3, 5, 7):
            vectors[number] = vectors[number] * output[0]
        needs_image, needs_text, needs_scale, *_ = ctx.needs_input_grad
        with without_autocast(image.device):
            image_grad, text_grad, scale_grad = ctx.kernels.gradients(
                Embeddings(image, text, scale.reshape(())),
                Embeddings(teacher_image, teacher_text, teacher_scale.reshape(())),
                (tuple(vectors[:4]), tuple(vectors[4:])),
                needs_text,
                ctx.tile,
            )
            own_text_grad = None if text_grad is None else reduce_scatter(text_grad)
        scale_grad = scale_grad.reshape(scale.shape)
        needed = image_grad if needs_image else None, own_text_grad, scale_grad if needs_scale else None
        return *needed, None, None, None, None, None
