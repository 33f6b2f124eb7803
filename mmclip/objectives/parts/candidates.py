"""A teacher's keys that a row is compared with: those of this step's batch on all ranks, then those of a queue."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.objectives.parts.ring import Ring
from mmclip.ops.directions import other_samples, own_column
from mmclip.ops.gather import all_gather
from mmclip.ops.momentum_targets import Candidates


def candidates(
    keys: Float[Tensor, "batch embed"],
    of_keys: Int[Tensor, "batch factor"],
    of_rows: Int[Tensor, "batch factor"],
    ring: Ring,
    duplicates: Literal["ignored", "positive"],
) -> Candidates:
    """The candidates of this rank's rows, of which row i's own key is row i of `keys`; none has a gradient.

    `of_keys` and `of_rows` are labels: those that agree in any factor are of the same sample.
    """
    own, others = own_column(keys), other_samples(of_rows, of_keys)
    filled, apart = ring.filled().expand(len(keys), -1), ring.others(of_rows)
    rows = all_gather(keys.detach()), ring.keys
    if duplicates == "ignored":
        return Candidates(rows, torch.cat([own, torch.zeros_like(apart)], 1), torch.cat([own | others, apart], 1))
    positive = torch.cat([own | ~others, filled & ~apart], 1)
    return Candidates(rows, positive, torch.cat([torch.ones_like(own), filled], 1))
