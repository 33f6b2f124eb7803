"""Long series made short enough to draw: spikes and gaps stay, a million points become a few hundred."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

Numbers = Sequence[Any] | np.ndarray
"""What a caller may give: numbers, or the texts "nan" and "inf" of strict JSON, or None; any array of numbers."""


def floats(values: Numbers) -> Float[np.ndarray, " point"]:
    """One flat array of float64; None becomes nan."""
    return np.asarray(values, dtype=np.float64).reshape(-1)


def thin(y: Float[np.ndarray, " point"], budget: int) -> Int[np.ndarray, " kept"]:
    """Indices, in order and at most `budget` (>= 8), that keep the ends and each bucket's smallest, largest and first gap."""
    if len(y) <= budget:
        return np.arange(len(y))
    finite = np.isfinite(y)
    edges = np.linspace(1, len(y) - 1, (budget - 2) // (2 if finite.all() else 3) + 1).astype(int)
    kept = {0, len(y) - 1}
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        inside = np.flatnonzero(finite[start:stop]) + start
        if len(inside):
            kept |= {int(inside[np.argmin(y[inside])]), int(inside[np.argmax(y[inside])])}
        if len(inside) < stop - start:
            kept.add(start + int(np.argmin(finite[start:stop])))
    return np.array(sorted(kept))


def runs(good: Bool[np.ndarray, " point"]) -> list[tuple[int, int]]:
    """[start, stop) of each unbroken run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def smooth(y: Float[np.ndarray, " point"], window: int) -> Float[np.ndarray, " point"]:
    """Two centred running means of `window` points; gaps stay gaps, and no mean reaches over one.

    The first and last half window lie on a straight line fitted to the window at that end: a mean of fewer points would
    end in a hook, and a mean of one side only would be late.
    """
    out = np.full(len(y), np.nan)
    for start, stop in runs(np.isfinite(y)):
        piece = y[start:stop]
        if len(piece) > window:
            means = _running_mean(piece, window)
            place, half = np.arange(window), window // 2
            means[:half] = np.polyval(np.polyfit(place, piece[:window], 1), place[:half])
            means[-half:] = np.polyval(np.polyfit(place, piece[-window:], 1), place[-half:])
            piece = _running_mean(means, window)
        out[start:stop] = piece
    return out


def _running_mean(y: Float[np.ndarray, " point"], window: int) -> Float[np.ndarray, " point"]:
    half = np.minimum(window // 2, np.minimum(np.arange(len(y)), np.arange(len(y))[::-1]))  # shrinks at the ends
    total = np.concatenate([[0.0], np.cumsum(y)])
    position = np.arange(len(y))
    return (total[position + half + 1] - total[position - half]) / (2 * half + 1)


def noisy(y: Float[np.ndarray, " point"]) -> bool:
    """Whether neighbours jump by more than a hundredth of the range, which a smoothed line then explains better."""
    good = y[np.isfinite(y)]
    if len(good) < 60:
        return False
    low, high = np.quantile(good, [0.02, 0.98])
    return bool(np.median(np.abs(np.diff(good))) > 0.01 * (high - low) > 0)


def sample(count: int, most: int) -> Int[np.ndarray, " kept"]:
    """The same `most` of `count` indices every time, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))
