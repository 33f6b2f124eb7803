"""Whether several objectives pull shared weights the same way (Yu et al. 2020, "Gradient surgery", definition 1)."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.gather import all_sum, world_size

Pull = Sequence[tuple[Tensor, Tensor | None]]
"""Tensors of a graph, each with the gradient that a loss leaves there; None for a loss itself."""


def gradient_figures(pulls: Mapping[str, Pull], parameters: Sequence[Tensor]) -> dict[str, Float[Tensor, ""]]:
    """Norm of each objective's gradient in some parameters, and the cosine of each pair: below 0 they are at odds.

    The gradients are those of the global batch. Only the part of the graph between a loss and `parameters` is walked
    (of a last block: a share of one backward pass each), the graph stays, and no `.grad` changes. Where a loss does not reach
    the parameters its norm is 0 and so are its cosines.
    """
    gradients = {name: _gradient(pull, parameters) for name, pull in pulls.items()}
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    figures = {f"gradient_norm_{name}": norm for name, norm in norms.items()}
    for one, other in combinations(gradients, 2):
        lengths = (norms[one] * norms[other]).clamp(min=torch.finfo(norms[one].dtype).tiny)
        figures[f"gradient_cosine_{one}_{other}"] = gradients[one] @ gradients[other] / lengths
    return figures


def _gradient(pull: Pull, parameters: Sequence[Tensor]) -> Float[Tensor, " all"]:
    tensors = [tensor for tensor, _ in pull]
    left = [gradient for _, gradient in pull]
    found = torch.autograd.grad(tensors, parameters, left, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, found, strict=True)]
    flat = torch.cat([part.detach().flatten() for part in parts])
    return all_sum(flat if flat.dtype == torch.float64 else flat.float()) / world_size()
