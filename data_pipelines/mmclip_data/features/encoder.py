"""`Encoder`: the one encode pass, over any number of ranks, through a store that later passes read.

Of a source every row comes exactly once. Rows are encoded in chunks that are a function of the source alone, each by
whichever rank it falls to, and what a store already has is not encoded again: the output is the same bits.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from mmclip.errors import MachineError, UserError
from mmclip_data.features.cache import FeatureCache
from mmclip_data.features.encode import (
    Chunk,
    ImageSource,
    Progress,
    distinct_texts,
    image_chunks,
    pictures_of,
    text_chunks,
)
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import ALONE, Ranks
from mmclip_data.features.shared_pass import Share, lead, own_share
from mmclip_data.features.store import FeatureStore

FLUSH_SECONDS = 5.0
"""What a kill may cost, beside the chunks in work."""
REMEMBERED_BYTES = 256 << 20
"""Of texts, which several sets may have in common."""


@runtime_checkable
class FingerprintedSource(ImageSource, Protocol):
    """Pictures whose bytes and order a fingerprint names."""

    @property
    def fingerprint(self) -> str: ...

    def close(self) -> None:
        """Release what is open; a later read opens it again."""
        ...


@dataclass(frozen=True)
class Pace:
    """What may change speed and memory, and never a bit of what comes out."""

    batch_size: int | None = None
    """Pictures that towers on a CPU have in work at a time; None: as many as there are threads for."""
    decode_threads: int | None = None
    """That read and decode pictures; None: one per core, at most 16."""


@dataclass(frozen=True)
class Encoding:
    """Every row of a source."""

    embed: Float[Tensor, "row embed"]
    """L2-normalised, fp32, on the CPU; zeros where a picture is bad."""
    bad: Mapping[int, str]
    """Rows whose picture cannot be read or decoded, with the reason."""


@dataclass
class Tally:
    """Rows that a pass had to encode, and rows that the store had."""

    encoded: dict[str, int] = field(default_factory=lambda: {"pictures": 0, "texts": 0})
    reused: dict[str, int] = field(default_factory=lambda: {"pictures": 0, "texts": 0})

    def __str__(self) -> str:
        parts = ((self.encoded, "encoded"), (self.reused, "reused"))
        said = [
            f"{' and '.join(f'{count:,} {what}' for what, count in rows.items() if count)} {verb}"
            for rows, verb in parts
            if any(rows.values())
        ]
        return ", ".join(said) or "nothing encoded"


class Encoder:
    """Embeddings of pictures and of texts, each encoded once."""

    def __init__(
        self,
        towers: Towers,
        *,
        store: FeatureStore | None = None,
        ranks: Ranks = ALONE,
        pace: Pace | None = None,
    ) -> None:
        self.towers = towers
        self.store = store
        self.ranks = ranks
        self.pace = pace or Pace()
        self.tally = Tally()
        self._threads = towers.threads(self.pace.batch_size)  # before a task takes all threads but one away
        # Without a store what is forgotten would be encoded again.
        self._images = Recent(REMEMBERED_BYTES if store else None)
        self._texts = Recent(REMEMBERED_BYTES)

    def images(
        self,
        source: FingerprintedSource,
        place: Mapping[str, Any],
        progress: Progress | None = None,
        refuse: Callable[[Mapping[int, str]], None] | None = None,
    ) -> Encoding:
        """Embeddings of the pictures of a source; `place` tells other ranks, in plain values, where to open it.

        `refuse` is called with bad pictures as soon as there are some, and may raise.

        Raises:
            UserError: an embedding is not finite, or the source is empty; names the sample.
        """
        if not len(source):
            raise UserError("nothing to encode: the source holds no sample")
        encoding = self._images.get(source.fingerprint)
        if encoding is None:
            encoding = self._images.put(source.fingerprint, self._encode_images(source, place, progress, refuse))
        if refuse is not None:
            refuse(encoding.bad)
        return encoding

    def _encode_images(
        self,
        source: FingerprintedSource,
        place: Mapping[str, Any],
        progress: Progress | None,
        refuse: Callable[[Mapping[int, str]], None] | None,
    ) -> Encoding:
        key = self.towers.image_key(source.fingerprint, len(source)) if self.store else None
        cache = self.store.open(key) if self.store and key else None
        asked = {"ask": "images", "place": dict(place), "fingerprint": source.fingerprint, "rows": len(source)}
        share = image_share(self.towers, source, self.pace, self._threads)
        try:
            return self._encode(len(source), cache, asked, share, "pictures", progress, refuse)
        finally:
            source.close()

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "text embed"]:
        """Embeddings of texts, equal rows for equal texts.

        Raises:
            UserError: there is no text, or an embedding is not finite; quotes the text.
        """
        distinct, places = distinct_texts(texts)
        name = xxhash.xxh3_128_hexdigest(json.dumps(distinct).encode())
        encoding = self._texts.get(name)
        if encoding is None:
            key = self.towers.text_key(distinct) if self.store else None
            cache = self.store.open(key) if self.store and key else None
            share = text_share(self.towers, distinct, self._threads)
            asked = {"ask": "texts", "texts": distinct}
            encoding = self._texts.put(name, self._encode(len(distinct), cache, asked, share, "texts"))
        return encoding.embed[places]

    def _encode(
        self,
        rows: int,
        cache: FeatureCache | None,
        asked: dict[str, Any],
        share: Callable[[Sequence[int]], Share],
        what: str,
        progress: Progress | None = None,
        refuse: Callable[[Mapping[int, str]], None] | None = None,
    ) -> Encoding:
        kept = _Kept(rows, self.towers.chunk_size, cache, self.store)
        missing = kept.missing()
        if refuse is not None:
            refuse(kept.bad)
        self.tally.reused[what] += kept.count
        if progress is not None and kept.count:
            progress(kept.count, rows)
        if missing:
            before = kept.count
            self.ranks.tell({**asked, "chunks": missing, "chunk_size": self.towers.chunk_size})
            with kept:
                for chunk in lead(self.ranks, missing, share(own_share(missing, self.ranks))):
                    kept.add(chunk)
                    if refuse is not None:
                        refuse(chunk.bad)
                    if progress is not None:
                        progress(kept.count, rows)
            self.tally.encoded[what] += kept.count - before
        return kept.encoding()


def image_share(towers: Towers, source: ImageSource, pace: Pace, threads: int) -> Callable[[Sequence[int]], Share]:
    """Encodes the chunks of the given numbers."""

    def encode(numbers: Sequence[int]) -> Share:
        with towers.working():
            yield from image_chunks(
                pictures_of(source, towers.model.spec.to_uint8),
                (_rows(number, towers.chunk_size, len(source)) for number in numbers),
                towers.embed_images,
                lambda row: f"sample {source.sample_id(row)}",
                chunk_size=towers.chunk_size,
                towers=threads,
                decode_threads=pace.decode_threads,
                normalise=towers.normalises("image"),
            )

    return encode


def text_share(towers: Towers, texts: Sequence[str], threads: int) -> Callable[[Sequence[int]], Share]:
    """Encodes the chunks of the given numbers."""

    def encode(numbers: Sequence[int]) -> Share:
        with towers.working():
            yield from text_chunks(
                texts,
                (_rows(number, towers.chunk_size, len(texts)) for number in numbers),
                towers.embed_prepared,
                prepare=towers.prepare,
                chunk_size=towers.chunk_size,
                towers=threads,
                normalise=towers.normalises("text"),
            )

    return encode


class Recent:
    """Encodings by name, those used last, up to a number of bytes."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[str, Encoding] = OrderedDict()

    def get(self, name: str) -> Encoding | None:
        if name in self._known:
            self._known.move_to_end(name)
        return self._known.get(name)

    def put(self, name: str, encoding: Encoding) -> Encoding:
        self._known[name] = encoding
        if self._max_bytes is not None:
            while len(self._known) > 1 and sum(known.embed.nbytes for known in self._known.values()) > self._max_bytes:
                self._known.popitem(last=False)
        return encoding


class _Kept:
    """The rows that are there so far: in memory, and after each few seconds in a cache, if there is one."""

    def __init__(self, rows: int, chunk_size: int, cache: FeatureCache | None, store: FeatureStore | None) -> None:
        self._rows, self._chunk_size = rows, chunk_size
        self._cache, self._store = cache, store
        self._embed: Tensor | None = None
        self.bad: dict[int, str] = {}
        self._there: set[int] = set()
        self._unwritten: dict[int, tuple[Tensor, Mapping[int, str]]] = {}
        self._written_at = time.monotonic()
        self.count = 0
        for block, embed in cache.read_blocks() if cache else ():
            rows_of_block = _rows(block.number, chunk_size, rows)
            self._take(Chunk(rows_of_block, embed, {int(row): why for row, why in block.bad.items()}))

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not there."""
        return [number for number in range(-(-self._rows // self._chunk_size)) if number not in self._there]

    def add(self, chunk: Chunk) -> None:
        """A chunk that was encoded."""
        self._take(chunk)
        if self._cache is not None:
            width = self._cache.key.embed_dim
            embed = chunk.embed if chunk.embed.shape[1] else torch.zeros(len(chunk.rows), width)
            self._unwritten[chunk.rows.start // self._chunk_size] = (embed, chunk.bad)
            if time.monotonic() - self._written_at > FLUSH_SECONDS:
                self._write()

    def encoding(self) -> Encoding:
        """All rows; to be asked for when none is missing."""
        assert self.count == self._rows, f"{self.count} of {self._rows} rows were encoded"
        embed = torch.zeros(self._rows, 0) if self._embed is None else self._embed
        return Encoding(embed, dict(sorted(self.bad.items())))

    def __enter__(self) -> "_Kept":
        self._written_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._write()  # also what came before an error or an interrupt

    def _take(self, chunk: Chunk) -> None:
        number = chunk.rows.start // self._chunk_size
        assert number not in self._there, f"chunk {number} came twice"
        self._there.add(number)
        self.bad |= chunk.bad
        self.count += len(chunk.rows)
        width = chunk.embed.shape[1]
        if not width:  # not one picture of it can be read
            return
        if self._embed is None:
            self._embed = torch.zeros(self._rows, width)
        self._embed[chunk.rows.start : chunk.rows.stop] = chunk.embed

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, {}
        if not unwritten or self._cache is None:
            return
        try:
            self._cache.write_blocks(unwritten, 0, 1)
        except (OSError, MachineError) as error:
            self._cache = None
            if self._store is not None:
                self._store.give_up(str(error))
        self._written_at = time.monotonic()


def _rows(number: int, chunk_size: int, rows: int) -> range:
    return range(number * chunk_size, min((number + 1) * chunk_size, rows))
