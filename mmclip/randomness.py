"""Counter-based randomness: every draw is a pure function of (seed, purpose, position), so any layout replays it.

Philox4x64-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), read as raw 64-bit words: no
version of a library may change their meaning, as it may that of `shuffle` or `choice`.
"""

import threading
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_thread = threading.local()


class Stream(IntEnum):
    """One stream per purpose: adding one moves no other. Numbers are part of the order's version and never reused."""

    SHARD_ORDER = 1
    LANE_ORDER = 2
    CROP = 3
    FLIP = 4
    COLOUR = 5
    CAPTION = 6
    SAMPLE_KEY = 7
    REPLACEMENT = 8
    STEP = 9
    SYNTHETIC = 10
    WEIGHTS = 11
    HUE = 12
    BLUR = 13
    SOLARISE = 14
    DRAW = 15
    SOURCE = 16
    STREAM_SHARDS = 17
    STREAM_BUFFER = 18
    PATCH_MASK = 19
    COLOUR_CHANCE = 20
    NOISE = 21


VIEW_SHIFT = 16
"""Views stand above the purposes in the second key word, so that view 0 draws what it drew before there were others."""


def words(seed: int, stream: Stream, position: int, count: int, view: int = 0) -> NDArray[np.uint64]:
    """`count` raw 64-bit words for one position; positions never overlap, whatever `count` is."""
    # The position stands in the second counter word: a generator that advances moves only the first. One generator a
    # thread is set anew each time, because making one costs four times as much.
    if not hasattr(_thread, "generator"):
        _thread.generator = np.random.Philox(key=0)
        _thread.start = _thread.generator.state
    _thread.start["state"]["key"] = np.array([seed, int(stream) + (view << VIEW_SHIFT)], dtype=np.uint64)
    _thread.start["state"]["counter"] = np.array([0, position, 0, 0], dtype=np.uint64)
    _thread.generator.state = _thread.start
    return _thread.generator.random_raw(count)


def uniform(seed: int, stream: Stream, position: int, count: int, view: int = 0) -> NDArray[np.float64]:
    """`count` doubles in [0, 1) with 53 random bits each."""
    return (words(seed, stream, position, count, view) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_of_keys(keys: NDArray[np.uint64], stream: Stream, count: int, view: int = 0) -> NDArray[np.float64]:
    """`uniform(key, stream, 0, count, view)` of many keys, one row each, without a loop over them."""
    block = np.arange(1, -(-count // 4) + 1, dtype=np.uint64)  # numpy raises the counter before the first block
    zeros = np.zeros((len(keys), len(block)), dtype=np.uint64)
    words = _philox(
        (zeros + block, zeros, zeros, zeros),
        (zeros + keys[:, None], zeros + np.uint64(int(stream) + (view << VIEW_SHIFT))),
    )
    drawn = np.stack(words, 2).reshape(len(keys), -1)[:, :count]
    return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integer(seed: int, stream: Stream, position: int, bound: int) -> int:
    """One integer in [0, bound); its bias is below bound / 2**64."""
    return int(words(seed, stream, position, 1)[0]) * bound >> 64


def permutation(seed: int, stream: Stream, position: int, length: int) -> NDArray[np.int64]:
    """A permutation of `length` items: the stable argsort of raw words."""
    drawn = words(seed, stream, position, length)
    # Words whose low bits are their own number sort five times as fast as numbers by their words, and in the same order,
    # unless two agree in all other bits (of 100,000 words once in 25,000 permutations): then the slow way decides.
    bits = np.uint64(max(1, length - 1).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = (drawn & ~low) | np.arange(length, dtype=np.uint64)
    packed.sort()
    high = packed >> bits
    if bool((high[1:] == high[:-1]).any()):
        return np.argsort(drawn, kind="stable")
    packed &= low
    return packed.view(np.int64)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for torch's generators, so that dropout replays after a resume without saved generator state."""
    return int(words(seed, Stream.STEP, step, rank + 1)[rank] >> np.uint64(1))


Words = NDArray[np.uint64]
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def _philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Philox4x64-10 (section 4.3 of the paper) on arrays."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + np.uint64(WEYL[0]), k1 + np.uint64(WEYL[1])
    return c0, c1, c2, c3


def _product(words: Words, factor: int) -> tuple[Words, Words]:
    """The high and the low word of 64 x 64 bits."""
    a, b = words >> HALF, words & LOW
    c, d = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    middle = a * d + (b * d >> HALF)
    middle_low = (middle & LOW) + b * c
    return a * c + (middle >> HALF) + (middle_low >> HALF), words * np.uint64(factor)
