"""The three terms of VICReg (Bardes, Ponce and LeCun 2022, section 4.1), over the rows of all ranks."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.gather import gather
from mmclip.ops.tiles import compute_dtype, without_autocast

STABILISER = 1e-4
"""Added to each variance before its root (equation 2), so that a collapsed column has a finite gradient."""


class VicregTerms(NamedTuple):
    """Without their weights."""

    invariance: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    covariance: Float[Tensor, ""]


def vicreg_terms(x: Float[Tensor, "batch width"], y: Float[Tensor, "batch width"]) -> VicregTerms:
    """The mean squared distance, the hinge of the deviations below 1, and the squared covariances off the diagonal.

    As the authors' code and not the paper's equation 6: the distance is a mean over columns too, and of the hinge the mean
    over both views is taken (the covariances of both are added). In fp32 or fp64. Every rank computes the two last ones of
    the joined batch, whose rows and gradients the gather exchanges.

    Raises:
        UserError: there is one row in all, which has no variance.
    """
    with without_autocast(x.device):
        dtype = compute_dtype(x, y)
        own_x, own_y = x.to(dtype), y.to(dtype)
        everywhere = gather(own_x), gather(own_y)
        if len(everywhere[0]) < 2:
            raise UserError("objective 'vicreg': expected a global batch of at least 2, got 1, which has no variance")
        hinges, covariances = zip(*[_hinge_and_covariance(rows) for rows in everywhere], strict=True)
        return VicregTerms(F.mse_loss(own_x, own_y), torch.stack(hinges).mean(), torch.stack(covariances).sum())


def _hinge_and_covariance(rows: Float[Tensor, "batch width"]) -> tuple[Tensor, Tensor]:
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    variance = covariance.diagonal()
    hinge = F.relu(1 - (variance + STABILISER).sqrt()).mean()
    return hinge, (covariance.square().sum() - variance.square().sum()) / rows.shape[1]
