"""The tokenizer of a model: open_clip's own by name, saved with every checkpoint."""

import heapq
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError

CHARACTERS_PER_TOKEN = 16
"""A caption is cut to this many characters per token of context before it is split: one of 1 MB would cost a second."""

CACHED_WORDS = 100_000
"""Words whose tokens are kept: a caption of known words costs a tenth of one that is split anew."""
CACHED_TEXTS = 50_000
"""Captions whose tokens are kept where only the tokenizer itself knows what a word is, least recently used out first."""

PROBES = (
    "A photo of a CAT, 2 x 3 = 6!",
    "Ein Stra\u00dfenhund, na\u00efve  caf\u00e9",
    "\u732b <b>&amp;</b>",
    "word " * 400,
)
"""Texts by which tokenizers are told apart, beside what they say of themselves."""


class Tokenizer:
    """Text to token ids, padded to the context length, exactly as the stock open_clip tokenizer of the model does.

    `text_cfg` is open_clip's table of that name. A Hugging Face tokenizer is read from `folder` where a checkpoint
    brings its files along, else by its name.

    Raises:
        UserError: the Hugging Face tokenizer cannot be loaded.
    """

    def __init__(self, text_cfg: Mapping[str, Any], folder: Path | None = None) -> None:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        self.context_length: int = text_cfg.get("context_length", 77)
        """Tokens, start and end included."""
        options = dict(text_cfg.get("tokenizer_kwargs") or {})
        self._words: ClipWords | None = None
        self._row = lru_cache(CACHED_TEXTS)(self._split)
        self._name: str | None = text_cfg.get("hf_tokenizer_name")
        if self._name is None:
            self._tokenizer: Any = SimpleTokenizer(context_length=self.context_length, **options)
            if self._tokenizer.reduction_fn is None:
                self._words = ClipWords(self._tokenizer)
            return
        source = str(folder) if folder is not None and (folder / "tokenizer_config.json").is_file() else self._name
        mode = text_cfg.get("tokenizer_mode")
        try:
            self._tokenizer = HFTokenizer(source, self.context_length, tokenizer_mode=mode, **options)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"tokenizer {source!r} cannot be loaded ({str(error).splitlines()[0]}); "
                "expected transformers (pip install mmclip[hf]), and its files in the checkpoint folder or a reachable hub"
            ) from error
        inner = self._tokenizer.tokenizer
        if not inner.get_vocab().keys() - set(inner.all_special_tokens):  # transformers makes an empty one in silence
            raise UserError(
                f"tokenizer {source!r} knows no word: its vocabulary (tokenizer.json, vocab.json, vocab.txt, *.model) is "
                "missing; copy the tokenizer's files from where the weights come from"
            )

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Token ids of `context_length` columns; longer captions are cut and keep their end token."""
        limit = self.context_length * CHARACTERS_PER_TOKEN
        if self._words is not None:
            return torch.from_numpy(self._words.rows([text[:limit] for text in texts], self.context_length))
        return torch.stack([self._row(text[:limit]) for text in texts])

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id that can come out."""
        if self._name is None:
            return self._tokenizer.vocab_size
        return max(len(self._tokenizer.tokenizer), 1 + max(self._tokenizer.tokenizer.get_vocab().values()))

    @property
    def pad_id(self) -> int | None:
        """The id behind a caption; None where the tokenizer has none."""
        return 0 if self._name is None else self._tokenizer.tokenizer.pad_token_id

    @property
    def end_id(self) -> int | None:
        """The id that ends a caption; None where the tokenizer has none."""
        return self._tokenizer.eot_token_id if self._name is None else self._tokenizer.tokenizer.eos_token_id

    @property
    def hugging_face(self) -> Any | None:
        """The tokenizer of transformers beneath, where there is one."""
        return None if self._name is None else self._tokenizer.tokenizer

    @property
    def open_clip(self) -> Any:
        """The tokenizer of open_clip that does the work."""
        return self._tokenizer

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokenizer":
        """Itself: no tokenizer changes, and a copy of its vocabulary takes seconds."""
        return self

    def with_context_length(self, length: int) -> "Tokenizer":
        """The same tokenizer for longer or shorter rows."""
        other = copy(self)
        other.context_length = length
        other._row = lru_cache(CACHED_TEXTS)(other._split)
        return other

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with anything that decides a token: words, rules, length."""
        # First of all: one of transformers notes the length of its last call in what it says of itself.
        parts = [repr(self(PROBES).tolist()), type(self._tokenizer).__name__, str(self.context_length)]
        parts += [str(getattr(self._tokenizer, name, "")) for name in ("reduction_fn", "strip_sep_token", "language")]
        inner = getattr(self._tokenizer, "tokenizer", None)  # that of transformers
        backend = getattr(inner, "backend_tokenizer", None)
        if inner is None:
            parts.append(f"{len(self._tokenizer.encoder)} {self._tokenizer.clean_fn.__name__}")
        else:
            parts.append(backend.to_str() if backend is not None else repr(sorted(inner.get_vocab().items())))
            parts.append(self._tokenizer.clean_fn.__name__ if hasattr(self._tokenizer, "clean_fn") else "")
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def _split(self, text: str) -> Tensor:
        return self._tokenizer([text], context_length=self.context_length)[0].to(torch.int64)

    def save(self, folder: Path) -> None:
        """Write what a reader of the folder cannot make from `open_clip_config.json` alone."""
        if self._name is not None:
            self._tokenizer.save_pretrained(str(folder))


class ClipWords:
    """The splitting of open_clip's SimpleTokenizer, token for token, with the work of each word done once.

    Its merging of a word takes time with the square of the word's length, and it keeps every word that it ever saw.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.is_lower = tokenizer.clean_fn.__name__ == "_clean_lower"
        self._known: dict[str, tuple[int, ...]] = {}

    def rows(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Ids in `length` columns: start, text, end, zeros; a text that is too long is cut and keeps the end."""
        out = np.zeros((len(texts), length), dtype=np.int64)
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        for row, text in zip(out, texts, strict=True):
            ids = [start, *self.encode(text)][: length - 1]
            ids.append(end)
            row[: len(ids)] = ids
        return out

    def encode(self, text: str) -> list[int]:
        """The ids of a text without start and end."""
        ids: list[int] = []
        for word in self.tokenizer.pat.findall(self._cleaned(text)):
            known = self._known.get(word)
            ids += known if known is not None else self._learn(word)
        return ids

    def _cleaned(self, text: str) -> str:
        # Mending (ftfy, HTML) takes most of the time and leaves such a text as it is.
        spaced = text.replace("\n", " ").replace("\t", " ")
        if self.is_lower and spaced.isascii() and spaced.isprintable() and "&" not in spaced:
            return " ".join(spaced.split()).lower()
        return self.tokenizer.clean_fn(text)

    def _learn(self, word: str) -> tuple[int, ...]:
        if len(self._known) >= CACHED_WORDS:
            self._known = {}  # another one: threads may be reading this one
        symbols = [self.tokenizer.byte_encoder[byte] for byte in word.encode("utf-8", errors="replace")]
        is_special = "".join(symbols) in self.tokenizer.encoder and word in self.tokenizer.cache
        merged = ["".join(symbols)] if is_special else _merged(symbols, self.tokenizer.bpe_ranks)
        ids = self._known[word] = tuple(self.tokenizer.encoder[symbol] for symbol in merged)
        return ids


def _merged(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Join neighbours, the pair of the lowest rank and farthest left first, until no pair has a rank."""
    parts = [*symbols[:-1], symbols[-1] + "</w>"]  # a part that has been joined to the one before it becomes ""
    before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
    heap = [(ranks[pair], left, pair) for left, pair in enumerate(pairwise(parts)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, left, (first, second) = heapq.heappop(heap)
        right = after[left] if parts[left] == first else len(parts)
        if right >= len(parts) or parts[right] != second:
            continue  # one of the two has been joined with something else
        parts[left], parts[right] = first + second, ""
        after[left] = after[right]
        if after[right] < len(parts):
            before[after[right]] = left
        for start in (before[left], left):
            end = after[start] if start >= 0 else len(parts)
            if end < len(parts) and (pair := (parts[start], parts[end])) in ranks:
                heapq.heappush(heap, (ranks[pair], start, pair))
    return [part for part in parts if part]
