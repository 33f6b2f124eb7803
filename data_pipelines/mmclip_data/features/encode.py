"""One pass of a frozen tower over pictures or texts, in chunks of one fixed size.

Matrix products differ in the last digits with the number of rows, so every call sees exactly `chunk_size` rows (the
last chunk is filled by repeating its last row): the output is bit-identical whatever batch size a run or a rank uses.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.decode import decode_image

CHUNK_SIZE = 64
MAX_DECODE_THREADS = 8
CHUNKS_AHEAD = 2
"""Chunks decoded while the tower works; more only costs memory."""

ToUint8 = Callable[[Image.Image], UInt8[Tensor, "3 height width_px"]]
EmbedImages = Callable[[UInt8[Tensor, "batch 3 height width_px"]], Float[Tensor, "batch embed"]]
EmbedTexts = Callable[[Sequence[str]], Float[Tensor, "batch embed"]]
Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


@runtime_checkable
class ImageSource(Protocol):
    """Encoded pictures in a fixed order, each with an identity for messages."""

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...

    def image_bytes(self, index: int) -> bytes: ...


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

    Bytes are read by the calling thread and decoded by `decode_threads` others (default: one per core, at most 8). A row
    whose picture cannot be read or decoded goes to `bad` where it is given, with the reason, and is zero; the others are
    what they would be beside any picture.

    Raises:
        UserError: the source is empty, a picture cannot be decoded (and `bad` is None) or none can, or an embedding is not
            finite; names the sample.
    """
    total = len(source)
    if not total:
        raise UserError("nothing to encode: the source holds no sample")
    threads = decode_threads or min(MAX_DECODE_THREADS, os.cpu_count() or 1)
    rows: list[tuple[int, Tensor | None]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start, pictures in _picture_chunks(source, to_uint8, chunk_size, pool):
                _note_bad(source, start, pictures, bad)
                found = embed_some(
                    pictures, embed, chunk_size, lambda row, start=start: f"sample {source.sample_id(start + row)}"
                )
                rows.append((len(pictures), found))
                _report(progress, start + len(pictures), total)
        finally:
            pool.shutdown(cancel_futures=True)
    width = next((found.shape[1] for _, found in rows if found is not None), None)
    if width is None:
        raise UserError(f"sample {source.sample_id(0)} {(bad or {})[0]}, and no other picture can be read")
    return torch.cat([torch.zeros(count, width) if found is None else found for count, found in rows])


def embed_some(
    pictures: Sequence[Tensor | BadSampleError], embed: EmbedImages, chunk_size: int, name: Callable[[int], str]
) -> Float[Tensor, "row embed"] | None:
    """Embeddings of a chunk in which some pictures could not be read; None where there is no picture at all.

    Those rows are zero, the others what they would be beside any picture.

    Raises:
        UserError: an embedding is not finite; `name` tells which.
    """
    sound = next((picture for picture in pictures if isinstance(picture, Tensor)), None)
    if sound is None:
        return None
    blank = torch.zeros_like(sound)
    stacked = torch.stack([picture if isinstance(picture, Tensor) else blank for picture in pictures])
    rows = finite(embed_padded(embed, stacked, chunk_size), name)
    rows[[number for number, picture in enumerate(pictures) if not isinstance(picture, Tensor)]] = 0
    return rows


def encode_texts(
    texts: Sequence[str], embed: EmbedTexts, *, chunk_size: int = CHUNK_SIZE, progress: Progress | None = None
) -> Float[Tensor, "text embed"]:
    """L2-normalised fp32 embeddings on the CPU, one row per text; equal texts are encoded once and get equal rows.

    Raises:
        UserError: there is no text, or an embedding is not finite; names the text.
    """
    if not texts:
        raise UserError("nothing to encode: the list of texts is empty")
    distinct = list(dict.fromkeys(texts))
    rows: list[Tensor] = []
    for start in range(0, len(distinct), chunk_size):
        chunk = distinct[start : start + chunk_size]
        padded = chunk + chunk[-1:] * (chunk_size - len(chunk))
        embeds = _normalised(embed(padded), chunk_size)[: len(chunk)]
        rows.append(finite(embeds, lambda row, chunk=chunk: f"text {chunk[row]!r}"))
        _report(progress, start + len(chunk), len(distinct))
    position = {text: index for index, text in enumerate(distinct)}
    return torch.cat(rows)[torch.tensor([position[text] for text in texts])]


def _picture_chunks(
    source: ImageSource, to_uint8: ToUint8, chunk_size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, list[Tensor | BadSampleError]]]:
    ahead: deque[tuple[int, list[Future[Tensor]]]] = deque()
    for start in range(0, len(source), chunk_size):
        indices = range(start, min(start + chunk_size, len(source)))
        ahead.append((start, [_decoded(source, index, to_uint8, pool) for index in indices]))
        if len(ahead) > CHUNKS_AHEAD:
            yield _results(*ahead.popleft())
    while ahead:
        yield _results(*ahead.popleft())


def _decoded(source: ImageSource, index: int, to_uint8: ToUint8, pool: ThreadPoolExecutor) -> Future[Tensor]:
    try:
        data = source.image_bytes(index)
    except BadSampleError as error:
        failed: Future[Tensor] = Future()
        failed.set_exception(BadSampleError(f"cannot be read: {error}"))
        return failed
    return pool.submit(_decode, data, to_uint8)


def _decode(data: bytes, to_uint8: ToUint8) -> Tensor:
    try:
        return to_uint8(decode_image(data))
    except BadSampleError as error:
        raise BadSampleError(f"cannot be decoded: {error}") from error


def _results(start: int, pictures: list[Future[Tensor]]) -> tuple[int, list[Tensor | BadSampleError]]:
    found: list[Tensor | BadSampleError] = []
    for picture in pictures:
        try:
            found.append(picture.result())
        except BadSampleError as error:
            found.append(error)
    return start, found


def _note_bad(
    source: ImageSource, start: int, pictures: Sequence[Tensor | BadSampleError], bad: dict[int, str] | None
) -> None:
    for row, picture in enumerate(pictures, start):
        if not isinstance(picture, Tensor):
            if bad is None:
                raise UserError(f"sample {source.sample_id(row)} {picture}; mend it or take it out") from picture
            bad[row] = str(picture)


def embed_padded(
    embed: EmbedImages, pixels: UInt8[Tensor, "row 3 height width_px"], chunk_size: int
) -> Float[Tensor, "row embed"]:
    """L2-normalised fp32 embeddings on the CPU of up to `chunk_size` pictures, encoded as a full chunk."""
    filler = pixels[-1:].expand(chunk_size - len(pixels), -1, -1, -1)
    return _normalised(embed(torch.cat([pixels, filler])), chunk_size)[: len(pixels)]


def _normalised(embeds: Tensor, rows: int) -> Tensor:
    if embeds.ndim != 2 or len(embeds) != rows:
        raise ValueError(f"the tower returned shape {tuple(embeds.shape)} for {rows} rows: expected [{rows}, embed]")
    # Callables that already normalise lose nothing; those that do not would otherwise rank by length.
    return F.normalize(embeds.detach().float().cpu(), dim=-1)


def finite(embeds: Float[Tensor, "row embed"], name: Callable[[int], str]) -> Float[Tensor, "row embed"]:
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


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
