"""Ids of captions and of pictures, equal exactly where they are the same: from these an objective knows its duplicates.

Captions come from their tokens, on the device they lie on; pictures from the ids of their samples. Ids have 64 bits: two of a
batch of 32,768 that differ get the same one with a chance of 3e-11.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.batch import PairLabels

WEYL, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The constants of SplitMix64 (Steele, Lea and Flood 2014, figure 16) as signed integers: torch has no unsigned arithmetic."""


def identity_labels(
    tokens: Int[Tensor, "batch token"], ids: Sequence[str], lengths: Int[Tensor, " batch"] | None = None
) -> PairLabels:
    """Labels whose first factor is the caption and whose second is the picture, `ids` being those of the samples.

    Without any column of tokens there are no captions, and the picture is the only factor.
    """
    pictures = picture_ids(ids, tokens.device)
    labels = torch.stack([caption_ids(tokens, lengths), pictures], dim=1) if tokens.shape[1] else pictures[:, None]
    return PairLabels(image=labels, text=labels)


def caption_ids(
    tokens: Int[Tensor, "batch token"], lengths: Int[Tensor, " batch"] | None = None
) -> Int[Tensor, " batch"]:
    """A hash of each row's first `lengths` tokens (all of them by default), in order."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    mixed = _mixed(tokens.to(torch.int64) + place * WEYL)
    if lengths is not None:
        mixed = mixed.masked_fill(place > lengths[:, None], 0)
    return mixed.sum(dim=1)


def picture_ids(ids: Sequence[str], device: torch.device) -> Int[Tensor, " batch"]:
    """A hash of each sample's id: one picture comes twice in a batch where it straddles two epochs."""
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], device=device)


def _mixed(words: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """SplitMix64's finaliser: each bit of a word moves half of the bits of the result."""
    words = (words ^ _shifted(words, 30)) * FIRST
    words = (words ^ _shifted(words, 27)) * SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: Int[Tensor, "batch token"], bits: int) -> Int[Tensor, "batch token"]:
    """To the right, filled with zeros, which torch's shift of signed integers does not do."""
    return (words >> bits) & ((1 << 64 - bits) - 1)
