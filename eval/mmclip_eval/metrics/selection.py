"""Scores of a few pictures against a few captions, where the i-th picture belongs to the i-th caption."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """What was right of each instance."""

    text: Bool[Tensor, " instance"]
    """Each picture scores its own caption above every other one."""
    image: Bool[Tensor, " instance"]
    """Each caption scores its own picture above every other one."""

    @property
    def both(self) -> Bool[Tensor, " instance"]:
        """Winoground's group score."""
        return self.text & self.image


def select(scores: Float[Tensor, "instance image caption"]) -> Selection:
    """Strictly: a tie is a loss. Winoground has two pictures and captions, SugarCrepe one picture and two captions.

    Pictures or captions beyond the shorter side belong to nothing and are only rivals. With one picture `image` is true
    by construction, as is its chance.

    Raises:
        ValueError: `scores` holds a non-finite value, or there is no instance.
    """
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold a non-finite value: comparing them is undefined")
    if not scores.numel():
        raise ValueError("selection among no instances is undefined")
    pairs = min(scores.shape[1:])
    own = scores.diagonal(dim1=1, dim2=2)
    text_rivals = (scores[:, :pairs] >= own[:, :, None]).sum(dim=2) - 1  # the own caption ties with itself
    image_rivals = (scores[:, :, :pairs] >= own[:, None, :]).sum(dim=1) - 1
    return Selection(text=(text_rivals == 0).all(dim=1), image=(image_rivals == 0).all(dim=1))


def chance_selection(images: int, captions: int) -> tuple[float, float, float]:
    """Shares of random scores that are right for `text`, `image` and `both`: 1/4, 1/4 and 1/6 for Winoground.

    For `both`, sort the own scores: the k-th lowest must exceed what it shares with the higher ones (two scores for each
    of them) and its rivals that belong to nothing; the integral over the ordered own scores is a product.
    """
    pairs, extra = min(images, captions), abs(images - captions)
    widths = [2 * (pairs - k) + extra + 1 for k in range(1, pairs + 1)]
    both = math.factorial(pairs) / math.prod(sum(widths[:k]) for k in range(1, pairs + 1))
    return captions**-pairs, images**-pairs, both
