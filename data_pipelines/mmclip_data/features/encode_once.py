"""The pass that fills a `FeatureCache`: blocks shared among ranks, chunks of one fixed size, bad pictures noted.

Which rows share a chunk is a function of the source alone, so the features are the same bits for any number of ranks,
threads and kills.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.cache import FeatureCache
from mmclip_data.features.encode import CHUNK_SIZE, Chunk, ToUint8, chunks_of
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.sources import Source, picture_of


class SourcePictures:
    """The pictures of a training source by row, at evaluation preprocessing."""

    def __init__(self, source: Source, to_uint8: ToUint8) -> None:
        self.source = source
        self.to_uint8 = to_uint8
        self.ends = np.cumsum(source.shard_sizes)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, row: int) -> tuple[int, int]:
        """Shard, and row in it."""
        shard = int(np.searchsorted(self.ends, row, side="right"))
        return shard, row - (int(self.ends[shard - 1]) if shard else 0)

    def __call__(self, row: int) -> UInt8[Tensor, "3 height width_px"]:
        sample = self.source.read(*self.place(row))
        raw = sample.get("pixels")  # the synthetic source has nothing to decode
        if raw is None:
            return self.to_uint8(decode_image(picture_of(sample)))
        from PIL import Image

        return self.to_uint8(Image.fromarray(raw))


def fill(
    cache: FeatureCache,
    encode: Callable[[Iterator[range]], Iterable[Chunk]],
    *,
    rank: int = 0,
    ranks: int = 1,
    chunk_size: int = CHUNK_SIZE,
) -> Iterator[int]:
    """Encode this rank's blocks that nobody has finished yet; yields the number of each when it is kept.

    `encode` makes chunks of rows (`image_chunks`, `text_chunks`), in their order.

    Raises:
        UserError: an embedding is not finite.
    """
    if cache.key.block_rows % chunk_size:
        raise UserError(f"block_rows={cache.key.block_rows}: expected a multiple of the chunk of {chunk_size} rows")
    blocks = missing_blocks(cache, rank, ranks)
    chunks = chain.from_iterable(chunks_of(cache.rows_of(block), chunk_size) for block in blocks)
    rows: list[Tensor] = []
    bad: dict[int, str] = {}
    for chunk in encode(chunks):
        block = chunk.rows.start // cache.key.block_rows
        rows.append(chunk.embed if chunk.embed.shape[1] else torch.zeros(len(chunk.rows), cache.key.embed_dim))
        bad |= chunk.bad
        if chunk.rows.stop == cache.rows_of(block).stop:
            cache.write(block, torch.cat(rows), bad, rank, ranks)
            rows, bad = [], {}
            yield block


def missing_blocks(cache: FeatureCache, rank: int, ranks: int) -> list[int]:
    """Blocks that a rank still has to encode; which are its own does not depend on what others have finished meanwhile."""
    done = cache.done()
    return [block for block in range(rank, cache.blocks, ranks) if block not in done]
