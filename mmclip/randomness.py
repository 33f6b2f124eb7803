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


def words(seed: int, stream: Stream, position: int, count: int) -> NDArray[np.uint64]:
    """`count` raw 64-bit words for one position; positions never overlap, whatever `count` is."""
    # The position stands in the second counter word: a generator that advances moves only the first. One generator a
    # thread is set anew each time, because making one costs four times as much.
    if not hasattr(_thread, "generator"):
        _thread.generator = np.random.Philox(key=0)
        _thread.start = _thread.generator.state
    _thread.start["state"]["key"] = np.array([seed, int(stream)], dtype=np.uint64)
    _thread.start["state"]["counter"] = np.array([0, position, 0, 0], dtype=np.uint64)
    _thread.generator.state = _thread.start
    return _thread.generator.random_raw(count)


def uniform(seed: int, stream: Stream, position: int, count: int) -> NDArray[np.float64]:
    """`count` doubles in [0, 1) with 53 random bits each."""
    return (words(seed, stream, position, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integer(seed: int, stream: Stream, position: int, bound: int) -> int:
    """One integer in [0, bound); its bias is below bound / 2**64."""
    return int(words(seed, stream, position, 1)[0]) * bound >> 64


def permutation(seed: int, stream: Stream, position: int, length: int) -> NDArray[np.int64]:
    """A permutation of `length` items: the stable argsort of raw words."""
    return np.argsort(words(seed, stream, position, length), kind="stable")


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for torch's generators, so that dropout replays after a resume without saved generator state."""
    return int(words(seed, Stream.STEP, step, rank + 1)[rank] >> np.uint64(1))
