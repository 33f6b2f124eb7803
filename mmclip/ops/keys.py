"""InfoNCE of queries against a teacher's keys, which get no gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.ops.gather import all_gather, rank
from mmclip.ops.tiles import compute_dtype, without_autocast


def queue_infonce(
    queries: Float[Tensor, "batch embed"],
    keys: Float[Tensor, "batch embed"],
    queue: Float[Tensor, "capacity embed"],
    negative: Bool[Tensor, "batch capacity"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Each query must find its own key among the rows of a queue that are its negatives (MoCo, He et al. 2020, equation 1).

    The mean over this rank's rows. Rows of `queries` and `keys` are normalised here, those of the queue are already. The
    loss of a query without any negative is 0. Holds batch x capacity logits in fp32, or fp64 where an input is.
    """
    with without_autocast(queries.device):
        dtype = compute_dtype(queries, keys)
        query, key = F.normalize(queries.to(dtype), dim=1), F.normalize(keys.detach().to(dtype), dim=1)
        against = (query @ queue.detach().to(dtype).T).masked_fill(~negative, -torch.inf)
        logits = torch.cat([(query * key).sum(1, keepdim=True), against], 1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def batch_infonce(
    queries: Float[Tensor, "batch embed"], keys: Float[Tensor, "batch embed"], temperature: float
) -> Float[Tensor, ""]:
    """Each query must find its own key among those of all ranks, times 2 x temperature (MoCo v3, Chen et al. 2021, alg. 1).

    The mean over this rank's rows; rows are normalised here. In fp32, or fp64 where an input is.
    """
    with without_autocast(queries.device):
        dtype = compute_dtype(queries, keys)
        query = F.normalize(queries.to(dtype), dim=1)
        candidates = all_gather(F.normalize(keys.detach().to(dtype), dim=1))
        own = rank() * len(query) + torch.arange(len(query), device=query.device)
        return 2 * temperature * F.cross_entropy(query @ candidates.T / temperature, own)
