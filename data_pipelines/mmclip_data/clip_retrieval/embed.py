"""From pairs to partitions: one pass over the pictures and the captions, resumed where it was stopped.

Embeddings do not depend on the size of the partitions, on the ranks or on a kill: rows share a chunk by their place in the
source alone. A rank takes every `ranks`-th partition, and needs no word from the others.
"""

import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_data.clip_retrieval.layout import Layout, Partition
from mmclip_data.clip_retrieval.pairs import Pairs, Words
from mmclip_data.features.cache import BLOCK_ROWS, FeatureCache, FeatureKey
from mmclip_data.features.encode import CHUNK_SIZE, Chunk, image_chunks
from mmclip_data.features.encode_once import fill
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.loading.decode import decode_image
from mmclip_data.pipelines.job import Dropped

CANNOT = "sample cannot be read"
PARTITION_ROWS = 100 * BLOCK_ROWS


@dataclass(frozen=True)
class EmbedJob:
    """A set, what it is embedded with, and where to.

    Raises:
        UserError: the folder holds something else, or the size of a partition is none.
    """

    pairs: Pairs
    towers: Towers
    output: Path
    partition_rows: int = PARTITION_ROWS

    def __post_init__(self) -> None:
        if self.partition_rows < CHUNK_SIZE or self.partition_rows % CHUNK_SIZE:
            near = max(CHUNK_SIZE, round(self.partition_rows / CHUNK_SIZE) * CHUNK_SIZE)
            raise UserError(
                f"partition_rows={self.partition_rows}: expected a multiple of {CHUNK_SIZE}, the rows that are encoded "
                f"together; nearest: {near}"
            )

    @property
    def partitions(self) -> int:
        """How many there are."""
        return -(-len(self.pairs) // self.partition_rows)

    @cached_property
    def layout(self) -> Layout:
        """The folder, claimed."""
        facts = {
            "data": self.pairs.fingerprint,
            "samples": len(self.pairs),
            "captions": list(self.pairs.fields),
            "partition_rows": self.partition_rows,
            "weights": weights_of(self.towers),
            "precision": self.towers.precision,
            "preprocess": self.towers.model.spec.to_open_clip(),
        }
        return Layout(self.output, facts, self.partitions)

    def missing(self, rank: int = 0, ranks: int = 1) -> list[int]:
        """This rank's partitions that nobody has finished."""
        return [number for number in range(rank, self.partitions, ranks) if not self.layout.is_done(number)]

    def rows_of(self, number: int) -> range:
        """Rows of a partition."""
        first = number * self.partition_rows
        return range(first, min(first + self.partition_rows, len(self.pairs)))

    def blocks(self, rank: int = 0, ranks: int = 1) -> int:
        """What `run` will report at most."""
        return sum(-(-len(self.rows_of(number)) // BLOCK_ROWS) for number in self.missing(rank, ranks))

    def run(self, rank: int = 0, ranks: int = 1) -> Iterator[int]:
        """Embed this rank's share; yields when another block of rows is encoded.

        Raises:
            UserError: an embedding is not finite; names the sample.
        """
        for number in self.missing(rank, ranks):
            yield from self._embed(number)

    def _embed(self, number: int) -> Iterator[int]:
        rows, pairs = self.rows_of(number), self.pairs
        scratch = self.output / f".features-{number}"  # a kill leaves it, and what it holds is not encoded again
        encoded = yield from encode_rows(pairs, self.towers, rows, scratch)
        self.layout.write(
            number,
            Partition(
                encoded.image_embed,
                encoded.text_embed,
                [pairs.name(row) for row in encoded.kept],
                [encoded.words[row].caption for row in encoded.kept],
                [encoded.words[row].facts for row in encoded.kept],
                [Dropped(pairs.name(row), CANNOT, reason) for row, reason in encoded.bad.items()],
            ),
        )
        shutil.rmtree(scratch)


@dataclass(frozen=True)
class EncodedRows:
    """Embeddings of some rows, L2-normalised fp32, aligned with `kept`."""

    kept: list[int]
    """Rows that have them."""
    image_embed: Float[np.ndarray, "row embed"]
    text_embed: Float[np.ndarray, "row embed"] | None
    """None where the set has no captions."""
    words: Mapping[int, Words]
    bad: Mapping[int, str]
    """The other rows, with the reason."""


def encode_rows(pairs: Pairs, towers: Towers, rows: range, scratch: Path) -> Generator[int, None, EncodedRows]:
    """Encode rows; what `scratch` holds of an earlier try is not encoded again. Yields when a block of them is done.

    Raises:
        UserError: an embedding is not finite; names the sample.
    """
    words, unread = _read_words(pairs, rows)
    spec = towers.model.spec
    key = FeatureKey(
        tower=towers.hashes["image"],
        precision=towers.precision,
        spec=spec,
        source=f"{pairs.fingerprint} {rows.start}",
        rows=len(rows),
        embed_dim=towers.width("image"),
    )

    def pixels(row: int) -> Tensor:
        if rows[row] in unread:  # without its caption there is no pair: the picture is left alone
            raise BadSampleError(unread[rows[row]])
        return spec.to_uint8(decode_image(pairs.image_bytes(rows[row])))

    def encode(chunks: Iterator[range]) -> Iterator[Chunk]:
        name, together = (lambda row: f"sample {pairs.name(rows[row])}"), towers.threads(None)
        return image_chunks(pixels, chunks, towers.embed_images, name, towers=together)

    cache = FeatureCache(scratch, key)
    with towers.working():
        yield from fill(cache, encode)
    features = cache.features()
    bad = {rows[row]: reason for row, reason in sorted(features.bad.items())}
    kept = [row for row in rows if row not in bad]
    image_embed = np.zeros((len(kept), key.embed_dim), dtype=np.float32)
    for place, row in enumerate(kept):
        image_embed[place] = features.row(row - rows.start)
    text_embed = np.zeros_like(image_embed) if pairs.fields else None
    if text_embed is not None and kept:
        texts = [words[row].caption or "" for row in kept]
        text_embed[:] = Encoder(towers).texts(texts).numpy()
    return EncodedRows(kept, image_embed, text_embed, words, bad)


def weights_of(towers: Towers) -> str:
    """Names both towers."""
    return " ".join(towers.hashes.values())


def _read_words(pairs: Pairs, rows: range) -> tuple[dict[int, Words], dict[int, str]]:
    words: dict[int, Words] = {}
    bad: dict[int, str] = {}
    for row in rows:
        try:
            words[row] = pairs.words(row)
        except BadSampleError as error:
            bad[row] = str(error)
    return words, bad


__all__ = ["PARTITION_ROWS", "EmbedJob", "EncodedRows", "encode_rows", "weights_of"]
