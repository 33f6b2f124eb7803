"""Agreement of predictions with targets that they cannot move."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.tiles import compute_dtype, without_autocast


def mean_cosine(prediction: Float[Tensor, "batch width"], target: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Mean over this rank's rows of the cosine of pairs, in fp32 or fp64; no gradient reaches `target`.

    2 - 2 x it is BYOL's loss of one direction (Grill et al. 2020, equation 2), its negative SimSiam's (Chen and He 2021,
    equation 1).
    """
    with without_autocast(prediction.device):
        dtype = compute_dtype(prediction, target)
        return F.cosine_similarity(prediction.to(dtype), target.detach().to(dtype), dim=1).mean()
