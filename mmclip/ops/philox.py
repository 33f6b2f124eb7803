"""Philox4x64-10 as tensor maths: what `mmclip.randomness` draws on the host, bit for bit, on the device that holds the keys."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.randomness import MULTIPLIERS, VIEW_SHIFT, WEYL, Stream

LOW = 0xFFFFFFFF


def ranks_of_keys(keys: Int[Tensor, " batch"], stream: Stream, count: int, view: int = 0) -> Int[Tensor, "batch count"]:
    """`count` random integers in [0, 2**53) a key: those that `uniform_of_keys` divides by 2**53.

    They stay integers, since an order of them is all that a choice needs and some devices lack doubles.
    """
    block = torch.arange(1, -(-count // 4) + 1, device=keys.device)
    zeros = torch.zeros(len(keys), len(block), dtype=torch.int64, device=keys.device)
    drawn = _philox(
        (zeros + block, zeros, zeros, zeros),
        (zeros + keys[:, None], zeros + (int(stream) + (view << VIEW_SHIFT))),
    )
    return _shifted(torch.stack(drawn, 2).flatten(1)[:, :count], 11)


def _philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _signed(WEYL[0]), k1 + _signed(WEYL[1])
    return c0, c1, c2, c3


def _product(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of 64 x 64 bits; torch's int64 wraps as unsigned words do."""
    a, b = _shifted(words, 32), words & LOW
    c, d = factor >> 32, factor & LOW
    middle = a * d + _shifted(b * d, 32)
    middle_low = (middle & LOW) + b * c
    return a * c + _shifted(middle, 32) + _shifted(middle_low, 32), words * _signed(factor)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros coming in: torch's own shift copies the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
