"""Recall of a similarity matrix when a query may own several gallery entries, or share one."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Size of one block of the similarity matrix: 64 MiB in fp32, whatever the number of queries."""
ROUNDING = 1e-9


def first_hit_rank(
    similarity: Float[Tensor, "query gallery"],
    owner: Int[Tensor, " gallery"],
    query: Int[Tensor, " query"] | None = None,
) -> Int[Tensor, " query"]:
    """How many entries that a query does not own score at least as high as the best that it owns: 0 is a strict win.

    `owner[j]` is the id of the query that gallery entry `j` belongs to; `query[i]` is the id of row `i` (default `i`).
    Rows may share an id (several captions of one picture), and any subset of the rows may be given (a chunk).

    Raises:
        ValueError: `similarity` holds a non-finite value, or a query owns nothing.
    """
    if not bool(torch.isfinite(similarity).all()):
        raise ValueError("similarity holds a non-finite value: ranks among them are undefined")
    ids = torch.arange(similarity.shape[0]) if query is None else query
    owned = ids[:, None] == owner[None, :]
    if not bool(owned.any(dim=1).all()):
        raise ValueError(f"query {int(ids[int((~owned.any(dim=1)).nonzero()[0])])} owns no gallery entry")
    best = similarity.masked_fill(~owned, -math.inf).amax(dim=1, keepdim=True)
    return ((similarity >= best) & ~owned).sum(dim=1)


def recall_at_k(
    similarity: Float[Tensor, "query gallery"],
    owner: Int[Tensor, " gallery"],
    k: int,
    query: Int[Tensor, " query"] | None = None,
) -> float:
    """Fraction of queries whose top `k` gallery entries hold at least one they own.

    `owner` and `query` as in `first_hit_rank`. Ties rank against the query; `k` may exceed the gallery.

    Raises:
        ValueError: `similarity` holds a non-finite value, a query owns nothing, or there is no query.
    """
    if not similarity.shape[0]:
        raise ValueError("recall of no queries is undefined")
    return int((first_hit_rank(similarity, owner, query) < k).sum()) / similarity.shape[0]


def chunked_first_hit_rank(
    query_embed: Float[Tensor, "query embed"],
    gallery_embed: Float[Tensor, "gallery embed"],
    owner: Int[Tensor, " gallery"],
    query: Int[Tensor, " query"],
) -> Int[Tensor, " query"]:
    """`first_hit_rank` of the product of two embedding matrices, which is never held whole."""
    rows = max(1, CHUNK_ELEMENTS // max(1, gallery_embed.shape[0]))
    return torch.cat(list(_rank_chunks(query_embed.split(rows), gallery_embed, owner, query.split(rows))))


def _rank_chunks(
    queries: tuple[Tensor, ...], gallery: Tensor, owner: Tensor, ids: tuple[Tensor, ...]
) -> Iterator[Tensor]:
    for rows, row_ids in zip(queries, ids, strict=True):
        yield first_hit_rank(rows @ gallery.T, owner, row_ids)


def chance_recall(owned: Int[Tensor, " query"], gallery: int, k: int) -> float:
    """Recall at `k` of a random ranking, for queries that own `owned` of the `gallery` entries."""
    others = gallery - owned.double()
    missed = torch.ones_like(others)
    for drawn in range(min(k, gallery)):
        missed *= (others - drawn) / (gallery - drawn)  # 0 once every other entry is drawn, and 0 it stays
    return float(1 - missed.mean())


def median_rank(first_hit: Int[Tensor, " query"]) -> float:
    """Median place of the first hit, counted from 1; between the two middle ones where their number is even.

    Raises:
        ValueError: there is no query.
    """
    if not first_hit.numel():
        raise ValueError("the median rank of no queries is undefined")
    return float(np.median(first_hit.numpy())) + 1


def chance_median_rank(owned: Int[Tensor, " query"], gallery: int) -> float:
    """The median place of the first hit in a random ranking, for queries that own `owned` of the `gallery` entries."""
    kinds, counts = np.unique(owned.numpy(), return_counts=True)
    drawn = np.arange(gallery)
    missed = np.zeros(gallery)
    for own, count in zip(kinds, counts, strict=True):
        missed += count * np.cumprod(np.maximum(0.0, gallery - own - drawn) / (gallery - drawn))
    found = 1 - missed / counts.sum()
    # A sum of rounded products: a half is a half within rounding.
    low, high = ((found >= 0.5 + margin).argmax() for margin in (-ROUNDING, ROUNDING))
    return float(low + high) / 2 + 1
