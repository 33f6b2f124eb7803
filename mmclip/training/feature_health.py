"""Figures of features that belong to no pair: what a tower pools, what a projector makes of it.

They say what `diagnostics.health` says of embeddings, and of the features' scale, which a loss may depend on (VICReg).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.gather import all_gather, world_size
from mmclip.training.diagnostics import MAX_ROWS, effective_rank, evenly_spaced, spread, uniformity


def health_of_features(features: Float[Tensor, "global_batch width"]) -> dict[str, Float[Tensor, ""]]:
    """Every figure of this file, by the name it is logged under behind that of the features.

    Rank, spread and uniformity are those of the rows' directions, so that they compare with those of embeddings.
    """
    rows = evenly_spaced(features.detach())
    directions = F.normalize(rows.float() if rows.dtype != torch.float64 else rows, dim=1)
    return {
        "effective_rank": effective_rank(directions),
        "effective_rank_centred": effective_rank(directions, centred=True),
        "std": spread(directions),
        "uniformity": uniformity(directions),
        "raw_std": raw_std(rows),
        "mean_norm": rows.to(directions.dtype).norm(dim=1).mean(),
        "dimensions": directions.new_tensor(min(rows.shape)),
    }


def raw_std(features: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation of the features as they are (Bardes et al. 2022, equation 1).

    VICReg asks for 1. Where it goes to 0 the features shrink to a point, which figures of directions cannot see.
    """
    rows = features if features.dtype == torch.float64 else features.float()
    return rows.std(dim=0, correction=0).mean()


def joined_features(features: Float[Tensor, "batch width"]) -> Float[Tensor, "some width"]:
    """As many of the rows of all ranks as `health_of_features` looks at: a large batch of wide rows is not sent whole."""
    wanted = max(1, MAX_ROWS // world_size())
    count = len(features)
    if count > wanted:
        features = features[torch.arange(wanted, device=features.device) * count // wanted]
    return all_gather(features.detach())
