"""Every caption of a source by number, so that a run whose text features are there needs neither shards nor a tokenizer.

    FOLDER/captions-<key>.safetensors    which captions each sample has, and the tokens of each distinct one

Two captions are one where their tokens are: nothing that a text tower makes can tell them apart.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Int
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.captions import captions_of, choose_place
from mmclip_data.loading.chosen import ChosenSamples, name_in_source
from mmclip_data.loading.mixture import Mixture
from mmclip_data.loading.opening import Opened

VERSION = 1
"""Of the file and of how samples become its numbers."""
SAMPLES_TOGETHER = 1024
"""Samples whose new captions are tokenized at once."""
ARRAYS = ("field_ends", "text_ends", "texts", "token_ends", "tokens", "fillers")

Tokenizer = Callable[[Sequence[str]], Int[Tensor, "batch token"]]
Track = Callable[[int, int], None]


@dataclass(frozen=True)
class CaptionTable:
    """Samples by their place in the source, their fields that hold captions, and of each field its captions."""

    field_ends: NDArray[np.int64]
    """[sample]: where the fields of each end in `text_ends`."""
    text_ends: NDArray[np.int64]
    """[field]: where its captions end in `texts`."""
    texts: NDArray[np.int64]
    """Numbers of distinct captions."""
    token_ends: NDArray[np.int64]
    """[distinct caption]: where its tokens end in `tokens`; what follows is filled."""
    tokens: NDArray[np.int32]
    fillers: NDArray[np.int32]
    """[distinct caption]: the token that fills its row."""
    columns: int
    """Of a row of tokens."""
    bad: Mapping[int, str]
    """Samples without a caption that can be read, with the reason."""

    def __len__(self) -> int:
        """Distinct captions."""
        return len(self.token_ends)

    @cached_property
    def fingerprint(self) -> str:
        """Of the distinct captions, in their order."""
        digest = xxhash.xxh3_128(str(self.columns).encode())
        for array in (self.token_ends, self.tokens, self.fillers):
            digest.update(array.data)
        return digest.hexdigest()

    def choose(self, sample: int, seed: int, position: int) -> int:
        """The number of the caption that comes at a position of a run: the one that reading the sample would choose.

        Raises:
            BadSampleError: it has none.
        """
        if sample in self.bad:
            raise BadSampleError(self.bad[sample])
        first, end = (int(self.field_ends[sample - 1]) if sample else 0), int(self.field_ends[sample])
        starts = [int(self.text_ends[field - 1]) if field else 0 for field in range(first, end)]
        counts = [int(self.text_ends[first + number]) - start for number, start in enumerate(starts)]
        field, place = choose_place(counts, seed, position)
        return int(self.texts[starts[field] + place])

    def rows(self, captions: range) -> Int[Tensor, "caption token"]:
        """The tokens of distinct captions, as they came from the tokenizer."""
        rows = np.repeat(self.fillers[captions.start : captions.stop, None], self.columns, axis=1).astype(np.int64)
        for row, number in zip(rows, captions, strict=True):
            start, end = (int(self.token_ends[number - 1]) if number else 0), int(self.token_ends[number])
            row[: end - start] = self.tokens[start:end]
        return torch.from_numpy(rows)


def caption_table(
    opened: Opened,
    tokenize: Tokenizer,
    name: str,
    folder: Path,
    classes: ChosenSamples | None = None,
    track: Track | None = None,
) -> CaptionTable:
    """The table of a source: read where it stands, else made and kept; `name` tells one tokenizer from another.

    With `classes` captions are those that are written for each class.

    Raises:
        UserError: no sample has a caption.
    """
    parts = [part.captions for part in opened.source.parts] if isinstance(opened.source, Mixture) else []
    fields = [list(opened.captions), [list(part) for part in parts], classes.fingerprint if classes else None]
    key = json.dumps([VERSION, opened.source.fingerprint, fields, name])
    path = folder / f"captions-{xxhash.xxh3_64_hexdigest(key.encode())}.safetensors"
    found = _read(path)
    if found is None:
        found = _make(opened, tokenize, classes, track)
        if not len(found):
            raise UserError(
                f"no sample has a caption in {', '.join(opened.captions)}: {next(iter(found.bad.values()))}"
            )
        _write(path, found)
    return found


def _make(opened: Opened, tokenize: Tokenizer, classes: ChosenSamples | None, track: Track | None) -> CaptionTable:
    maker, source, done = _Maker(tokenize), opened.source, 0
    total = int(source.shard_sizes.sum())
    for shard, size in enumerate(source.shard_sizes.tolist()):
        for start in range(0, size, SAMPLES_TOGETHER):
            rows = range(start, min(start + SAMPLES_TOGETHER, size))
            maker.add([_captions(opened, shard, row, classes) for row in rows])
            done += len(rows)
            if track is not None:
                track(done, total)
    return maker.table()


def _captions(opened: Opened, shard: int, row: int, classes: ChosenSamples | None) -> list[list[str]] | BadSampleError:
    if classes is not None:
        return [list(classes.texts[classes.classes[name_in_source(opened.source.sample_id(shard, row))]])]
    try:
        sample = opened.source.read(shard, row)
        return captions_of(sample, sample.get("__captions__", opened.captions))
    except BadSampleError as error:
        return error


class _Maker:
    """Collects captions, each text tokenized once."""

    def __init__(self, tokenize: Tokenizer) -> None:
        self._tokenize = tokenize
        self._of_text: dict[str, int] = {}
        self._of_tokens: dict[bytes, int] = {}
        self._ends: dict[str, list[int]] = {
            name: [] for name in ("field_ends", "text_ends", "texts", "token_ends", "fillers")
        }
        self._tokens: list[NDArray[np.int32]] = []
        self._bad: dict[int, str] = {}
        self._columns = 0

    def add(self, samples: Sequence[list[list[str]] | BadSampleError]) -> None:
        """The next samples."""
        sound = [sample for sample in samples if not isinstance(sample, BadSampleError)]
        self._learn([text for sample in sound for field in sample for text in field])
        ends = self._ends
        for sample in samples:
            if isinstance(sample, BadSampleError):
                self._bad[len(ends["field_ends"])] = str(sample)
            else:
                for field in sample:
                    ends["texts"] += [self._of_text[text] for text in field]
                    ends["text_ends"].append(len(ends["texts"]))
            ends["field_ends"].append(len(ends["text_ends"]))

    def _learn(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._of_text]
        if not new:
            return
        tokens = self._tokenize(new).numpy()
        self._columns = tokens.shape[1]
        for text, row in zip(new, tokens, strict=True):
            self._of_text[text] = self._number(row)

    def _number(self, row: NDArray[np.int64]) -> int:
        known = self._of_tokens.setdefault(row.tobytes(), len(self._of_tokens))
        if known == len(self._ends["token_ends"]):
            # What is one token from some column on is kept as that token.
            length = len(row) - int(np.argmax(row[::-1] != row[-1])) if (row != row[-1]).any() else 0
            self._tokens.append(row[:length].astype(np.int32))
            self._ends["token_ends"].append((self._ends["token_ends"] or [0])[-1] + length)
            self._ends["fillers"].append(int(row[-1]))
        return known

    def table(self) -> CaptionTable:
        arrays: dict[str, Any] = {name: np.array(ends, dtype=np.int64) for name, ends in self._ends.items()}
        arrays["fillers"] = arrays["fillers"].astype(np.int32)
        tokens = np.concatenate([np.zeros(0, dtype=np.int32), *self._tokens])
        return CaptionTable(**arrays, tokens=tokens, columns=self._columns, bad=self._bad)


def _write(path: Path, table: CaptionTable) -> None:
    arrays = {name: getattr(table, name) for name in ARRAYS}
    facts = {"columns": table.columns, "bad": table.bad, "checksum": _checksum(arrays)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(save(arrays, {"facts": json.dumps(facts)}))
    temporary.replace(path)


def _read(path: Path) -> CaptionTable | None:
    """None where there is none, or one that is damaged and so is made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
            facts = json.loads((file.metadata() or {})["facts"])
    except (SafetensorError, KeyError, ValueError):
        return None
    if facts["checksum"] != _checksum(arrays):
        return None
    bad = {int(row): reason for row, reason in facts["bad"].items()}
    return CaptionTable(**arrays, columns=facts["columns"], bad=bad)


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_128()
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
