"""Whether several objectives pull shared weights the same way (Yu et al. 2020, "Gradient surgery", definition 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.ops.gather import all_sum, world_size
from mmclip.towers.blocks import blocks_of, image_tower
from mmclip.towers.two_tower import TwoTower

Pull = Sequence[tuple[Tensor, Tensor | None]]
"""Tensors of a graph, each with the gradient that a loss leaves there; None for a loss itself."""


def compared(output: ObjectiveOutput, towers: TwoTower) -> ObjectiveOutput:
    """The output with the figures of its parts' gradients in the last image block among those that it reports."""
    pulls: dict[str, Pull] = {name: [(loss, None)] for name, loss in output.parts.items()}
    return _with_figures(output, pulls, towers)


def compared_in_last(
    output: ObjectiveOutput, whole: TowerOutput, last: TowerOutput, towers: TwoTower
) -> ObjectiveOutput:
    """The same where a batch is encoded in pieces: by what the losses of the whole batch ask of its last piece.

    `whole` are the leaves that the losses were taken over, `last` the piece whose graph is there.
    """
    leaves = {name: leaf for name, leaf in whole.rows().items() if leaf.requires_grad}
    rows, size = last.rows(), len(last.image_embed)
    pulls: dict[str, Pull] = {}
    for name, loss in output.parts.items():
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        pulls[name] = [(rows[leaf], left[-size:]) for leaf, left in zip(leaves, found, strict=True) if left is not None]
    return _with_figures(output, pulls, towers)


def _with_figures(output: ObjectiveOutput, pulls: Mapping[str, Pull], towers: TwoTower) -> ObjectiveOutput:
    blocks = blocks_of(image_tower(towers.backbone))
    learning = [parameter for parameter in blocks[-1].parameters() if parameter.requires_grad] if blocks else []
    if len(pulls) < 2 or not learning:
        return output
    return replace(output, report={**output.report, **gradient_figures(pulls, learning)})


def gradient_figures(pulls: Mapping[str, Pull], parameters: Sequence[Tensor]) -> dict[str, Float[Tensor, ""]]:
    """Norm of each objective's gradient in some parameters, and the cosine of each pair: below 0 they are at odds.

    The gradients are those of the global batch. Only the part of the graph between a loss and `parameters` is walked
    (of a last block: a share of one backward pass each), the graph stays, and no `.grad` changes. Where a loss does not reach
    the parameters its norm is 0 and so are its cosines.
    """
    gradients = {name: _gradient(pull, parameters) for name, pull in pulls.items()}
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    figures = {f"gradient_norm/{name}": norm for name, norm in norms.items()}
    for one, other in combinations(gradients, 2):
        lengths = (norms[one] * norms[other]).clamp(min=torch.finfo(norms[one].dtype).tiny)
        figures[f"gradient_cosine/{one}/{other}"] = gradients[one] @ gradients[other] / lengths
    return figures


def _gradient(pull: Pull, parameters: Sequence[Tensor]) -> Float[Tensor, " all"]:
    tensors = [tensor for tensor, _ in pull]
    left = [gradient for _, gradient in pull]
    found = torch.autograd.grad(tensors, parameters, left, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, found, strict=True)]
    flat = torch.cat([part.detach().flatten() for part in parts])
    return all_sum(flat if flat.dtype == torch.float64 else flat.float()) / world_size()
