"""How alike pictures and texts are: those that belong together, and those that do not."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.analysis.sampling import draw

BINS = 800
DRAWN_BINS = 56
MOST_PAIRS = 200_000_000
"""Pairs that are counted; of larger sets a fixed draw of pictures."""
BLOCK = 1 << 24


@dataclass(frozen=True)
class SimilarityCounts:
    """Cosines counted in `BINS` equal bins from -1 to 1."""

    edges: NDArray[np.float64]
    positive: NDArray[np.int64]
    """Pictures with a text of their own."""
    negative: NDArray[np.int64]
    """Pictures with any other text."""
    pictures: int

    @property
    def separation(self) -> float:
        """How often a pair that belongs together is more alike than one that does not (ties half): .5 is chance, 1 perfect."""
        below = np.cumsum(self.negative) - self.negative
        wins = (self.positive * (below + self.negative / 2)).sum()
        return float(wins / (self.positive.sum() * max(1, self.negative.sum())))

    def coarse(self) -> "SimilarityCounts":
        """The same counts in at most `DRAWN_BINS` bins over the part that holds anything."""
        filled = np.flatnonzero(self.positive + self.negative)
        width = -(-(int(filled[-1]) + 1 - int(filled[0])) // DRAWN_BINS)
        start = int(filled[0]) // width * width
        stop = min(-(-(int(filled[-1]) + 1) // width) * width, len(self.positive))
        starts = np.arange(start, stop, width)
        edges = np.append(self.edges[starts], self.edges[stop])
        sums = [np.add.reduceat(counts[:stop], starts) for counts in (self.positive, self.negative)]
        return SimilarityCounts(edges, sums[0], sums[1], self.pictures)


def count_similarities(
    image_embed: Float[Tensor, "sample embed"],
    text_embed: Float[Tensor, "text embed"],
    own_rows: Int[Tensor, " pair"],
    own_columns: Int[Tensor, " pair"],
) -> SimilarityCounts:
    """Count all pairs; picture `own_rows[i]` and text `own_columns[i]` belong together, each pair given once."""
    most = max(1, MOST_PAIRS // max(1, len(text_embed)))
    if len(image_embed) > most:
        chosen = torch.tensor(draw(most, len(image_embed)))
        place = torch.full((len(image_embed),), -1)
        place[chosen] = torch.arange(len(chosen))
        kept = place[own_rows] >= 0
        image_embed, own_rows, own_columns = image_embed[chosen], place[own_rows[kept]], own_columns[kept]
    rows = max(1, BLOCK // max(1, len(text_embed)))
    every = sum((_count(block @ text_embed.T) for block in image_embed.split(rows)), np.zeros(BINS, dtype=np.int64))
    own = zip(own_rows.split(BLOCK // 64), own_columns.split(BLOCK // 64), strict=True)
    positive = sum(
        (_count((image_embed[i] * text_embed[j]).sum(dim=1)) for i, j in own), np.zeros(BINS, dtype=np.int64)
    )
    # The two products may round a pair into neighbouring bins, so a difference may fall one below zero.
    return SimilarityCounts(np.linspace(-1, 1, BINS + 1), positive, np.maximum(every - positive, 0), len(image_embed))


def _count(cosines: Tensor) -> NDArray[np.int64]:
    return torch.histc(cosines.double().clamp(-1, 1), BINS, -1, 1).numpy().astype(np.int64)
