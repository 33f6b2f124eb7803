"""Pictures and texts through a tower, in chunks of one fixed size.

Matrix products differ in the last digits with the number of rows, so every call sees exactly `chunk_size` rows (the
last chunk is filled by repeating its last row), and which rows share a chunk is a function of the source alone: the
output is bit-identical whatever batch size, threads or ranks a run uses.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_data.features.tower_threads import in_order
from mmclip_data.loading.decode import decode_image

CHUNK_SIZE = 64
MAX_DECODE_THREADS = 16
CHUNKS_AHEAD = 2
"""Chunks decoded while the tower works; more only costs memory."""

ToUint8 = Callable[[Image.Image], UInt8[Tensor, "3 height width_px"]]
EmbedImages = Callable[[UInt8[Tensor, "batch 3 height width_px"]], Float[Tensor, "batch embed"]]
EmbedTexts = Callable[[Sequence[str]], Float[Tensor, "batch embed"]]
Pixels = Callable[[int], UInt8[Tensor, "3 height width_px"]]
"""The picture of a row, from any thread; raises `BadSampleError` where there is none."""
Name = Callable[[int], str]
"""Says which row it is, for messages."""
Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


@runtime_checkable
class ImageSource(Protocol):
    """Encoded pictures in a fixed order, each with an identity for messages."""

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...

    def image_bytes(self, index: int) -> bytes: ...


@dataclass(frozen=True)
class Chunk:
    """Rows that went through a tower together."""

    rows: range
    embed: Float[Tensor, "row embed"]
    """L2-normalised, fp32, on the CPU; zeros where there is no picture, of width 0 where there is none at all."""
    bad: Mapping[int, str]
    """Rows without a picture, with the reason."""


def chunks_of(rows: range, chunk_size: int) -> Iterator[range]:
    """Consecutive rows, the last chunk as long as what is left."""
    for start in range(rows.start, rows.stop, chunk_size):
        yield range(start, min(start + chunk_size, rows.stop))


def image_chunks(
    pixels: Pixels,
    chunks: Iterable[range],
    embed: EmbedImages,
    name: Name,
    *,
    chunk_size: int = CHUNK_SIZE,
    towers: int = 1,
    decode_threads: int | None = None,
    normalise: bool = True,
) -> Iterator[Chunk]:
    """Yield the chunks in their order; `towers` of them are encoded at once, and some are decoded ahead.

    Rows are L2-normalised, but where `normalise` says that lengths mean something.

    Raises:
        UserError: an embedding is not finite; `name` tells which.
    """
    with ThreadPoolExecutor(decode_threads or _decode_threads(), thread_name_prefix="decode") as decoders:
        shape = _Shape(chunk_size, normalise)
        jobs = (
            partial(_embedded, rows, [decoders.submit(_picture, pixels, row) for row in rows], embed, name, shape)
            for rows in chunks
        )
        try:
            yield from in_order(jobs, towers, CHUNKS_AHEAD)
        finally:
            decoders.shutdown(cancel_futures=True)


def text_chunks(
    texts: Sequence[str],
    chunks: Iterable[range],
    embed: Callable[[Any], Float[Tensor, "batch embed"]],
    *,
    prepare: Callable[[Sequence[str]], Any] = list,
    chunk_size: int = CHUNK_SIZE,
    towers: int = 1,
    normalise: bool = True,
) -> Iterator[Chunk]:
    """Yield the chunks in their order; what `prepare` makes of the texts of each, in the calling thread, is embedded.

    Raises:
        UserError: an embedding is not finite; the text is quoted.
    """

    def job(rows: range) -> Callable[[], Chunk]:
        own = texts[rows.start : rows.stop]
        shape = _Shape(chunk_size, normalise)
        return partial(_embedded_texts, rows, prepare(padded(own, chunk_size)), own, embed, shape)

    yield from in_order(map(job, chunks), towers, CHUNKS_AHEAD)


def encode_images(
    source: ImageSource,
    to_uint8: ToUint8,
    embed: EmbedImages,
    *,
    chunk_size: int = CHUNK_SIZE,
    decode_threads: int | None = None,
    progress: Progress | None = None,
    bad: dict[int, str] | None = None,
) -> Float[Tensor, "sample embed"]:
    """L2-normalised fp32 embeddings on the CPU, one row per sample in the order of `source`.

    Bytes are read and decoded by `decode_threads` threads (default: one per core, at most 16). A row whose picture cannot be
    read or decoded goes to `bad` where it is given, with the reason, and is zero; the others are what they would be beside
    any picture.

    Raises:
        UserError: the source is empty, a picture cannot be decoded (and `bad` is None) or none can, or an embedding is not
            finite; names the sample.
    """
    total = len(source)
    if not total:
        raise UserError("nothing to encode: the source holds no sample")
    rows: list[Chunk] = []
    for chunk in image_chunks(
        pictures_of(source, to_uint8),
        chunks_of(range(total), chunk_size),
        embed,
        lambda row: f"sample {source.sample_id(row)}",
        chunk_size=chunk_size,
        decode_threads=decode_threads,
    ):
        if bad is None:
            refuse_bad(source, chunk.bad)
        else:
            bad |= chunk.bad
        rows.append(chunk)
        if progress is not None:
            progress(chunk.rows.stop, total)
    width = max(chunk.embed.shape[1] for chunk in rows)
    if not width:
        raise UserError(f"sample {source.sample_id(0)} {rows[0].bad[0]}, and no other picture can be read")
    return torch.cat([chunk.embed if chunk.embed.shape[1] else torch.zeros(len(chunk.rows), width) for chunk in rows])


def encode_texts(
    texts: Sequence[str], embed: EmbedTexts, *, chunk_size: int = CHUNK_SIZE
) -> Float[Tensor, "text embed"]:
    """L2-normalised fp32 embeddings on the CPU, one row per text; equal texts are encoded once and get equal rows.

    Raises:
        UserError: there is no text, or an embedding is not finite; names the text.
    """
    distinct, places = distinct_texts(texts)
    chunks = chunks_of(range(len(distinct)), chunk_size)
    rows = torch.cat([chunk.embed for chunk in text_chunks(distinct, chunks, embed, chunk_size=chunk_size)])
    return rows[places]


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each text once, in the order of its first place, and where among them each of `texts` stands.

    Raises:
        UserError: there is no text.
    """
    if not texts:
        raise UserError("nothing to encode: the list of texts is empty")
    position = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return list(position), torch.tensor([position[text] for text in texts])


def padded(texts: Sequence[str], chunk_size: int) -> list[str]:
    """A full chunk: the last text is repeated."""
    return [*texts, *[texts[-1]] * (chunk_size - len(texts))]


def pictures_of(source: ImageSource, to_uint8: ToUint8) -> Pixels:
    """The pictures of an evaluation source by row; one thread reads at a time, several decode."""
    lock = Lock()  # sources keep a file open between two reads

    def pixels(row: int) -> Tensor:
        try:
            with lock:
                data = source.image_bytes(row)
        except BadSampleError as error:
            raise BadSampleError(f"cannot be read: {error}") from error
        try:
            return to_uint8(decode_image(data))
        except BadSampleError as error:
            raise BadSampleError(f"cannot be decoded: {error}") from error

    return pixels


def refuse_bad(source: ImageSource, bad: Mapping[int, str]) -> None:
    """Refuse pictures that could not be encoded.

    Raises:
        UserError: there are some; the first is named.
    """
    if bad:
        first = min(bad)
        others = f" ({len(bad):,} such samples so far)" if len(bad) > 1 else ""
        raise UserError(f"sample {source.sample_id(first)} {bad[first]}; mend it or take it out{others}")


class _Shape(NamedTuple):
    """What comes out of a tower for a chunk."""

    rows: int
    normalise: bool = True


def embed_padded(
    embed: EmbedImages, pixels: UInt8[Tensor, "row 3 height width_px"], chunk_size: int, normalise: bool = True
) -> Float[Tensor, "row embed"]:
    """fp32 embeddings on the CPU of up to `chunk_size` pictures, encoded as a full chunk."""
    filler = pixels[-1:].expand(chunk_size - len(pixels), -1, -1, -1)
    return _checked(embed(torch.cat([pixels, filler])), _Shape(chunk_size, normalise))[: len(pixels)]


def finite(embeds: Float[Tensor, "row embed"], name: Name) -> Float[Tensor, "row embed"]:
    """The embeddings themselves.

    Raises:
        UserError: a row is not finite; `name` tells which.
    """
    bad = (~torch.isfinite(embeds).all(dim=1)).nonzero()
    if len(bad):
        raise UserError(
            f"{name(int(bad[0]))}: its embedding is not finite ({len(bad)} such rows in this chunk of {len(embeds)}); "
            "the weights hold NaN or Inf, or the precision overflows: try fp32, then an earlier checkpoint"
        )
    return embeds


def _picture(pixels: Pixels, row: int) -> Tensor | BadSampleError:
    try:
        return pixels(row)
    except BadSampleError as error:
        return error


def _embedded(
    rows: range, pictures: Sequence[Future[Tensor | BadSampleError]], embed: EmbedImages, name: Name, shape: _Shape
) -> Chunk:
    """A chunk in which a missing picture is blank: the others are as they would be beside any other."""
    found = [picture.result() for picture in pictures]
    bad = {row: str(item) for row, item in zip(rows, found, strict=True) if not isinstance(item, Tensor)}
    sound = next((item for item in found if isinstance(item, Tensor)), None)
    if sound is None:
        return Chunk(rows, torch.zeros(len(rows), 0), bad)
    blank = torch.zeros_like(sound)
    stacked = torch.stack([item if isinstance(item, Tensor) else blank for item in found])
    features = finite(embed_padded(embed, stacked, *shape), lambda row: name(rows.start + row))
    features[[row - rows.start for row in bad]] = 0
    return Chunk(rows, features, bad)


def _embedded_texts(
    rows: range, prepared: Any, texts: Sequence[str], embed: Callable[[Any], Tensor], shape: _Shape
) -> Chunk:
    embeds = _checked(embed(prepared), shape)[: len(texts)]
    return Chunk(rows, finite(embeds, lambda row: f"text {texts[row]!r}"), {})


def _checked(embeds: Tensor, shape: _Shape) -> Tensor:
    rows = shape.rows
    if embeds.ndim != 2 or len(embeds) != rows:
        raise ValueError(f"the tower returned shape {tuple(embeds.shape)} for {rows} rows: expected [{rows}, embed]")
    found = embeds.detach().float().cpu()
    # Callables that already normalise lose nothing; those that do not would otherwise rank by length.
    return F.normalize(found, dim=-1) if shape.normalise else found.clone()


def _decode_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_DECODE_THREADS, cores // ranks_here))
