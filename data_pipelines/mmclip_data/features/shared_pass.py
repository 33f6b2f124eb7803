"""One pass over chunks by several ranks: in rounds, because an error on one of them has to reach all.

The chunks are dealt out one by one, so that a set of a few of them is spread as well as a large one. Which rank encodes a
chunk changes nothing about it.
"""

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from mmclip_data.features.encode import Chunk
from mmclip_data.features.ranks import Ranks, error_of, error_table

Share = Generator[Chunk, None, None]
"""The chunks of one rank, encoded as they are asked for."""

ROUND_SECONDS = 2.0
MOST_PER_ROUND = 64
"""Chunks of each rank in a round, which grows to about `ROUND_SECONDS`: slow towers report often, quick ones seldom wait."""


def own_share(numbers: Sequence[int], ranks: Ranks) -> Sequence[int]:
    """The chunks that this rank encodes."""
    return numbers[ranks.rank :: ranks.size]


def lead(ranks: Ranks, numbers: Sequence[int], own: Share) -> Iterator[Chunk]:
    """Yield the chunks of all ranks, those of a round in their order; `own` is the share of this one, the first.

    The others must be in `follow` with the same numbers, and leave it when this ends, however it ends.

    Raises:
        Exception: what a rank met first, by the number of the chunk.
    """
    if ranks.size == 1:
        yield from own
        return
    left, count = len(numbers), 1
    try:
        while left > 0:
            started = time.monotonic()
            ranks.tell(count)
            parts = [_unpacked(part) for part in ranks.gather(_part(own, count, ranks.rank))]
            failed = [(table["chunk"], rank) for rank, (table, _) in enumerate(parts) if table["error"]]
            if failed:
                _, rank = min(failed)
                raise error_of(parts[rank][0]["error"])
            yield from sorted((chunk for _, chunks in parts for chunk in chunks), key=lambda chunk: chunk.rows.start)
            left -= count * ranks.size
            if time.monotonic() - started < ROUND_SECONDS:
                count = min(MOST_PER_ROUND, count * 2)
    finally:
        own.close()
        if ranks.in_touch:
            ranks.tell(0)


def follow(ranks: Ranks, own: Share) -> None:
    """Hand over what the first rank asks for, until it asks for no more; an error is handed over too."""
    with closing(own):
        while count := int(ranks.hear()):
            ranks.gather(_part(own, count, ranks.rank))


def _part(own: Share, count: int, rank: int) -> bytes:
    """The next chunks, or as many as come before an error, and the error."""
    chunks: list[Chunk] = []
    error: dict[str, Any] | None = None
    try:
        for chunk in islice(own, count):
            chunks.append(chunk)
    except Exception as failure:  # whatever it is, the first rank has to know, or all would wait for each other
        error = error_table(failure, rank)
    table = {
        "chunks": [[chunk.rows.start, chunk.rows.stop, dict(chunk.bad)] for chunk in chunks],
        "widths": [chunk.embed.shape[1] for chunk in chunks],
        "error": error,
        "chunk": chunks[-1].rows.stop if chunks else -1,
    }
    head = json.dumps(table).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(chunk.embed.numpy().tobytes() for chunk in chunks)


def _unpacked(part: bytes) -> tuple[dict[str, Any], list[Chunk]]:
    length = int.from_bytes(part[:8], "little")
    table, start = json.loads(part[8 : 8 + length]), 8 + length
    chunks: list[Chunk] = []
    for (first, last, bad), width in zip(table["chunks"], table["widths"], strict=True):
        stop = start + (last - first) * width * 4
        values = np.frombuffer(part[start:stop], dtype=np.float32).reshape(last - first, width)
        rows = range(first, last)
        chunks.append(Chunk(rows, torch.from_numpy(values.copy()), {int(row): why for row, why in bad.items()}))
        start = stop
    return table, chunks
