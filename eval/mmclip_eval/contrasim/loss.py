"""The supervised contrastive loss over units whose similarities are known."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def supervised_contrastive(
    similarity: Float[Tensor, "unit unit"], labels: Int[Tensor, " unit"], temperature: float
) -> Float[Tensor, ""]:
    """Each unit must be nearer to those of its label than to all others (Khosla et al. 2020, equation 2).

    `similarity` holds cosines. A unit is no candidate for itself; one that is alone in its label has no term in the mean.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=similarity.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    log_softmax = (similarity / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    anchors = positive.any(dim=1)
    # where, not a product: the unit itself has a log-probability of minus infinity.
    terms = -torch.where(positive, log_softmax, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return terms.sum() / anchors.sum().clamp(min=1)
