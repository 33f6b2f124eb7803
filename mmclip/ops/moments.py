"""Mean and variance over the rows of all ranks, with their exact gradient."""

import torch
from torch import Tensor

from mmclip.ops.gather import gather


def joined_moments(values: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over the rows of all ranks, and how many there are.

    One exchange; the ranks' own moments are put together as Chan, Golub and LeVeque (1979) have it, which cancels nothing.
    All ranks hold equally many rows.
    """
    here = values.numel() // values.shape[1]
    own = torch.stack([values.mean(dims), values.var(dims, correction=0)])
    means, variances = gather(own.flatten()[None]).unflatten(1, own.shape).unbind(1)
    mean = means.mean(0)
    variance = variances.mean(0) + (means - mean).square().mean(0)
    return mean, variance, here * len(means)
