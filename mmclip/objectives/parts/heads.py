"""Heads: what an objective puts between the towers' features and its loss. None is part of a released model."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmclip.objectives.parts.norm import Norm, norm_layers
from mmclip.ops.tiles import compute_dtype, without_autocast


class Head(nn.Sequential):
    """Layers that take rows of any precision; the result has that of the weights, or autocast's."""

    def forward(self, input: Float[Tensor, "batch _"]) -> Float[Tensor, "batch _"]:  # noqa: A002  (torch's name)
        """The last layer's rows."""
        return super().forward(input.to(next(self.parameters()).dtype))


def projector(
    in_width: int,
    hidden: int,
    out: int,
    layers: int = 2,
    norm: Norm = "none",
    last_norm: Norm = "none",
    activation: type[nn.Module] = nn.ReLU,
) -> Head:
    """Linear layers with `norm` and an activation between them (SimCLR, Chen et al. 2020, section 4.2).

    `last_norm`, without scale or shift, follows the last one (SimSiam, Chen and He 2021, section 3).
    """
    widths, parts = [in_width, *[hidden] * (layers - 1)], []
    for width in widths[:-1]:
        parts += [nn.Linear(width, hidden, bias=norm == "none"), *norm_layers(norm, hidden), activation()]
    last = nn.Linear(widths[-1], out, bias=last_norm == "none")
    return Head(*parts, last, *norm_layers(last_norm, out, affine=False))


def predictor(width: int, hidden: int, norm: Norm = "none") -> Head:
    """Two layers from a space to itself, for the student alone (BYOL, Grill et al. 2020, section 3.1)."""
    return projector(width, hidden, width, 2, norm)


class Prototypes(nn.Module):
    """Cosines of rows with learned directions (SwAV, Caron et al. 2020, section 3.1), which is DINO's last layer too.

    The weight is normalised where it is used, so nothing has to be put right after a step. Without a bias, which would
    favour a direction whatever the row.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width) * width**-0.5)

    def forward(self, rows: Float[Tensor, "batch width"], frozen: bool = False) -> Float[Tensor, "batch prototype"]:
        """In fp32 (fp64 in fp64) under autocast too: a temperature of .04 makes errors 25 times larger.

        Where it is `frozen` the gradient of the weight is 0 and not missing, since DDP waits for that of every parameter;
        weight decay then changes its length alone, which is without effect.
        """
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        with without_autocast(rows.device):
            dtype = compute_dtype(rows, weight)
            return F.normalize(rows.to(dtype), dim=1) @ F.normalize(weight.to(dtype), dim=1).T


class PrototypeHead(nn.Module):
    """A projector, and prototypes in its space."""

    def __init__(self, projector: Head, prototypes: Prototypes) -> None:
        super().__init__()
        self.projector = projector
        self.prototypes = prototypes

    def forward(self, rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch prototype"]:
        """Cosines with the prototypes."""
        return self.prototypes(self.projector(rows))


def dino_head(in_width: int, hidden: int, bottleneck: int, prototypes: int, norm: Norm = "none") -> PrototypeHead:
    """Three layers with GELU, L2 norm, and a last layer of rows of length 1 (DINO, Caron et al. 2021, section 3.1)."""
    layers = projector(in_width, hidden, bottleneck, 3, norm, activation=nn.GELU)
    return PrototypeHead(layers, Prototypes(bottleneck, prototypes))
