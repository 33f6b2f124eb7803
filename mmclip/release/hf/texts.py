"""The tokenizer of an export: one of transformers that splits texts as the model's own does."""

import string
from copy import deepcopy
from typing import Any

from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower


def tokenizer_for_others(model: TwoTower, kind: str) -> Any:
    """A tokenizer of transformers for a model of `kind` (clip or siglip), with the cleaning of texts built in.

    Raises:
        UserError: there is none that gives the same ids.
    """
    tokenizer = model.tokenizer
    if tokenizer.hugging_face is None:
        made = _of_words(model, kind)
    else:
        made = deepcopy(tokenizer.hugging_face)
        _clean(made, (model.model_cfg["text_cfg"].get("tokenizer_kwargs") or {}).get("clean", "whitespace"))
    made.model_max_length = tokenizer.context_length
    return made


def _of_words(model: TwoTower, kind: str) -> Any:
    """OpenAI's vocabulary, under the names that transformers has for its two special tokens."""
    from transformers import CLIPTokenizer

    if kind != "clip":
        raise UserError(
            "its text tower reads padding, which OpenAI's tokenizer writes as id 0 and transformers' does not"
        )
    words = model.tokenizer.open_clip
    options = model.model_cfg["text_cfg"].get("tokenizer_kwargs") or {}
    if {name: value for name, value in options.items() if (name, value) != ("clean", "lower")}:
        raise UserError(f"its tokenizer has settings of open_clip's own (tokenizer_kwargs = {options})")
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary: dict[str, int] = {str(names.get(word, word)): number for word, number in words.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(words.bpe_ranks))


def _clean(tokenizer: Any, clean: str) -> None:
    """Do what open_clip does to a text before the tokenizer sees it, but for mending what was encoded twice."""
    if clean == "whitespace":
        return
    from tokenizers import Regex, normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"its tokenizer is one of Python, which cannot lower-case texts (clean = {clean})")
    steps: list[Any] = [normalizers.Lowercase()]
    if clean == "canonicalize":
        marks = "".join(f"\\{mark}" for mark in string.punctuation if mark != "_")
        steps = [
            normalizers.Replace("_", " "),
            normalizers.Replace(Regex(f"[{marks}]"), ""),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    own = backend.normalizer
    backend.normalizer = normalizers.Sequence([*steps, *([own] if own is not None else [])])
