"""The pass that fills a `FeatureCache`: blocks shared among ranks, chunks of one fixed size, bad pictures noted.

Which rows share a chunk is a function of the source alone, so the features are the same bits for any number of ranks,
threads and kills.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_data.features.cache import FeatureCache
from mmclip_data.features.encode import (
    CHUNK_SIZE,
    CHUNKS_AHEAD,
    MAX_DECODE_THREADS,
    EmbedImages,
    ImageSource,
    ToUint8,
    embed_some,
)
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.sources import Source, picture_of

Pixels = Callable[[int], UInt8[Tensor, "3 height width_px"]]
"""The picture of a row; raises `BadSampleError` where there is none."""


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


def pictures_of(source: ImageSource, to_uint8: ToUint8) -> Pixels:
    """The pictures of an evaluation source by row."""
    return lambda row: to_uint8(decode_image(source.image_bytes(row)))


def fill(
    cache: FeatureCache,
    pixels: Pixels,
    embed: EmbedImages,
    *,
    rank: int = 0,
    ranks: int = 1,
    chunk_size: int = CHUNK_SIZE,
    threads: int | None = None,
    name: Callable[[int], str] = "row {} of the source".format,
) -> Iterator[int]:
    """Encode this rank's blocks that nobody has finished yet; yields the number of each when it is kept.

    `name` says which row it is where one fails. `pixels` is called by `threads` others (default: one per core, at most 8),
    and may be in several at once.

    Raises:
        UserError: an embedding is not finite.
    """
    blocks = missing_blocks(cache, rank, ranks)
    chunks = (chunk for block in blocks for chunk in _chunks(cache, block, chunk_size))
    rows: list[Tensor] = []
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(threads or min(MAX_DECODE_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for block, chunk, pictures in _ahead(chunks, pixels, pool):
                reasons = {
                    row: str(item) for row, item in zip(chunk, pictures, strict=True) if not isinstance(item, Tensor)
                }
                rows.append(
                    _embedded(
                        pictures, embed, chunk_size, cache.key.embed_dim, lambda row, chunk=chunk: name(chunk[row])
                    )
                )
                bad |= reasons
                if chunk.stop == cache.rows_of(block).stop:
                    cache.write(block, torch.cat(rows), bad, rank, ranks)
                    rows, bad = [], {}
                    yield block
        finally:
            pool.shutdown(cancel_futures=True)


def missing_blocks(cache: FeatureCache, rank: int, ranks: int) -> list[int]:
    """Blocks that a rank still has to encode; which are its own does not depend on what others have finished meanwhile."""
    done = cache.done()
    return [block for block in range(rank, cache.blocks, ranks) if block not in done]


def _chunks(cache: FeatureCache, block: int, chunk_size: int) -> Iterator[tuple[int, range]]:
    if cache.key.block_rows % chunk_size:
        raise UserError(f"block_rows={cache.key.block_rows}: expected a multiple of the chunk of {chunk_size} rows")
    rows = cache.rows_of(block)
    for start in range(rows.start, rows.stop, chunk_size):
        yield block, range(start, min(start + chunk_size, rows.stop))


def _ahead(
    chunks: Iterator[tuple[int, range]], pixels: Pixels, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, range, list[Tensor | BadSampleError]]]:
    ahead: deque[tuple[int, range, list[Future[Tensor | BadSampleError]]]] = deque()
    for block, chunk in chunks:
        ahead.append((block, chunk, [pool.submit(_picture, pixels, row) for row in chunk]))
        if len(ahead) > CHUNKS_AHEAD:
            block, chunk, pictures = ahead.popleft()
            yield block, chunk, [picture.result() for picture in pictures]
    for block, chunk, pictures in ahead:
        yield block, chunk, [picture.result() for picture in pictures]


def _picture(pixels: Pixels, row: int) -> Tensor | BadSampleError:
    try:
        return pixels(row)
    except BadSampleError as error:
        return error


def _embedded(
    pictures: list[Tensor | BadSampleError],
    embed: EmbedImages,
    chunk_size: int,
    embed_dim: int,
    name: Callable[[int], str],
) -> Tensor:
    """Features of a chunk, zero where there is no picture: the others are as they would be beside any other."""
    found = embed_some(pictures, embed, chunk_size, name)
    return torch.zeros(len(pictures), embed_dim) if found is None else found


__all__ = ["Pixels", "SourcePictures", "fill", "missing_blocks", "pictures_of"]
