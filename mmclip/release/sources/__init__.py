"""Weights in: one string names a source, and what comes with it (architecture, preprocessing, tokenizer) is kept.

One kind of source a file; `KINDS` is the grammar.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from mmclip.errors import UserError
from mmclip.release.sources.conse import load_conse
from mmclip.release.sources.folder import load_path, model_folder, sha256_of, weights_folder, weights_of
from mmclip.release.sources.hub import load_hub
from mmclip.release.sources.open_clip_registry import load_released
from mmclip.release.sources.pair import load_pair
from mmclip.release.sources.transformers_folder import load_transformers
from mmclip.towers.two_tower import TwoTower

KINDS: dict[str, Callable[[str], TwoTower]] = {
    "open_clip": load_released,
    "hf-hub": load_hub,
    "transformers": load_transformers,
    "timm": load_pair,
    "conse": load_conse,
}
"""By the word before the colon, what reads the rest; everything else is a path."""

GRAMMAR = (
    "a run, a checkpoint, a folder of open_clip or transformers, open_clip:ARCH/TAG, open_clip:ARCH/FILE, "
    "hf-hub:ORG/NAME, transformers:ID_OR_FOLDER, timm:NAME@FILE+hf:ID_OR_FOLDER, or conse: and such a pair"
)


def load(source: str | Path, device: str | torch.device = "cpu", *, raw: bool = False) -> TwoTower:
    """A trained model, in evaluation mode, from wherever it stands.

    `source` is one of `GRAMMAR`; `local-dir:` may stand before a path. A run is its best checkpoint where it
    was chosen by a figure, else the newest that verifies; where it averages its weights it is the average, and `raw` takes
    the weights themselves.

    Raises:
        UserError: nothing loadable is there; the message says what was looked for.
    """
    text = str(source)
    kind, _, rest = text.partition(":")
    if kind in KINDS:
        model = KINDS[kind](rest)
    else:
        refuse_unknown_kind(text)
        model = load_path(Path(text.removeprefix("local-dir:")), raw)
    return model.eval().to(device)


def source_folder(source: str | Path) -> Path | None:
    """The folder that holds the weights of a source; None where none does: weights that are named, built, or one file.

    Raises:
        UserError: a path leads to nothing loadable.
    """
    text = str(source)
    if text.partition(":")[0] in KINDS:
        return None
    refuse_unknown_kind(text)
    path = Path(text.removeprefix("local-dir:"))
    return None if path.is_file() else weights_folder(path)


def refuse_unknown_kind(source: str) -> None:
    """Refuse a word before a colon that looks like a kind of source and is none.

    Raises:
        UserError: naming those that are known.
    """
    kind, colon, _ = source.partition(":")
    looks_like_one = colon and len(kind) > 1 and all(letter.isalnum() or letter in "-_" for letter in kind)
    if looks_like_one and kind != "local-dir" and not Path(source).exists():
        raise UserError(f"{source!r}: {kind}: is no kind of source; expected {GRAMMAR}")


__all__ = ["GRAMMAR", "KINDS", "load", "model_folder", "sha256_of", "source_folder", "weights_of"]
