"""Votes of the nearest neighbours in a set of labelled embeddings."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

NEIGHBOURS = 20
TEMPERATURE = 0.07
BLOCK_ELEMENTS = 1 << 24
"""Size of one block of similarities; fixed, so that no setting moves a last digit."""


def neighbour_votes(
    query: Float[Tensor, "query embed"],
    gallery: Float[Tensor, "gallery embed"],
    labels: Int[Tensor, " gallery"],
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "query class"]:
    """Per class the sum of exp(cosine / temperature) over its members among the nearest (Wu et al., 2018).

    Embeddings are L2-normalised. Entries that tie with the last neighbour all vote, so that the order of the gallery
    decides nothing.

    Raises:
        ValueError: an embedding is not finite, or the gallery is empty.
    """
    if not len(gallery):
        raise ValueError("there are no neighbours in an empty gallery")
    rows = max(1, BLOCK_ELEMENTS // len(gallery))
    member = F.one_hot(labels.long(), classes).double()
    return torch.cat([_votes(block @ gallery.T, member, neighbours, temperature) for block in query.split(rows)])


def _votes(similarity: Tensor, member: Tensor, neighbours: int, temperature: float) -> Tensor:
    if not bool(torch.isfinite(similarity).all()):
        raise ValueError("similarity holds a non-finite value: its order is undefined")
    best = similarity.topk(min(neighbours, similarity.shape[1]), dim=1).values
    near = similarity >= best[:, -1:]
    # Relative to the best neighbour: the votes keep their order, and no exponential overflows.
    weight = ((similarity - best[:, :1]).double() / temperature).exp()
    return (weight * near) @ member
