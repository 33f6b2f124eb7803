"""Synthetic batches: pixels of noise, and captions whose lengths follow a law.

The law: lengths are lognormal with mean 16 and standard deviation 10, rounded, at least 3 and at most 77 tokens, start and end
counted. That is how captions from the web are spread (LAION: 16, 10); longer, re-captioned ones leave less padding to save.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN, DEVIATION = 16.0, 10.0
SHORTEST = 3
LAW = f"lognormal, mean {MEAN:g}, standard deviation {DEVIATION:g}, rounded, {SHORTEST} to the context length"


@dataclass(frozen=True)
class Pairs:
    """Pictures and captions, as a loader hands them over."""

    pixels: Tensor
    """uint8, [batch 3 height width_px]."""
    tokens: Tensor
    """int64, [batch context_length], zeros behind the end token."""

    def to(self, device: torch.device) -> "Pairs":
        """The same on another device."""
        return replace(self, pixels=self.pixels.to(device), tokens=self.tokens.to(device))


def lengths(count: int, longest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Tokens of each of `count` captions, by the law."""
    variance = math.log1p((DEVIATION / MEAN) ** 2)
    drawn = rng.lognormal(math.log(MEAN) - variance / 2, math.sqrt(variance), count)
    return drawn.round().clip(SHORTEST, longest).astype(np.int64)


def captions(count: int, text_cfg: dict[str, Any], seed: int) -> Tensor:
    """Token ids [count context_length]: start, words at random, end (the highest id, as open_clip's towers expect it)."""
    columns, vocabulary = text_cfg.get("context_length", 77), text_cfg.get("vocab_size", 49408)
    rng = np.random.default_rng(seed)
    ends = lengths(count, columns, rng) - 1
    tokens = rng.integers(1, vocabulary - 2, (count, columns))
    tokens[:, 0] = vocabulary - 2
    tokens[np.arange(count), ends] = vocabulary - 1
    tokens[np.arange(columns) > ends[:, None]] = 0
    return torch.from_numpy(tokens)


def pairs(count: int, model_cfg: dict[str, Any], seed: int = 0) -> Pairs:
    """A batch for a model."""
    side = model_cfg["vision_cfg"]["image_size"]
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Pairs(torch.from_numpy(pixels), captions(count, model_cfg["text_cfg"], seed))
