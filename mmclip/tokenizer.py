"""The tokenizer of a model: open_clip's own by name, saved with every checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError

CHARACTERS_PER_TOKEN = 16
"""A caption is cut to this many characters per token of context before it is split: one of 1 MB would cost a second."""

CACHED_TEXTS = 50_000
"""Captions whose tokens are kept: splitting one costs half a millisecond, and captions come back every epoch."""


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
        self._cache: dict[str, Tensor] = {}
        self._name: str | None = text_cfg.get("hf_tokenizer_name")
        if self._name is None:
            self._tokenizer: Any = SimpleTokenizer(context_length=self.context_length, **options)
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

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Token ids of `context_length` columns; longer captions are cut and keep their end token."""
        limit = self.context_length * CHARACTERS_PER_TOKEN
        return torch.stack([self._row(text[:limit]) for text in texts])

    def _row(self, text: str) -> Tensor:
        if text not in self._cache:
            if len(self._cache) >= CACHED_TEXTS:
                self._cache.clear()
            self._cache[text] = self._tokenizer([text])[0].to(torch.int64)
        return self._cache[text]

    def save(self, folder: Path) -> None:
        """Write what a reader of the folder cannot make from `open_clip_config.json` alone."""
        if self._name is not None:
            self._tokenizer.save_pretrained(str(folder))
