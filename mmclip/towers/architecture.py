"""From the `[model]` table of a run to open_clip's description of an architecture."""

import importlib.util
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.near import nearest
from mmclip.towers.presets import PRESETS

KINDS: dict[str, tuple[type, str]] = {
    "timm_model_name": (str, "the name of a model of timm"),
    "hf_model_name": (str, "the name or folder of a model of transformers"),
    "hf_tokenizer_name": (str, "the name or folder of a tokenizer of transformers"),
    "tokenizer_kwargs": (dict, "a table of settings"),
}
"""Settings of a tower that are read before it is built."""
SHORTEST_CONTEXT = 3
"""Tokens of a caption of one short word: start, word, end."""


@config
class ModelConfig:
    """Which two towers to build, and from which weights to start."""

    arch: str = "tiny-vit-64"
    """A preset of mmclip or any architecture name of open_clip (ViT-B-32, RN50, ...); ignored where `init` names one."""
    inline: dict[str, Any] | None = None
    """An open_clip `model_cfg` table written out, in place of `arch`."""
    init: str | None = None
    """Weights to start from: a folder, `open_clip:ARCH/TAG`, `hf-hub:NAME`, `transformers:NAME`, `timm:NAME+hf:NAME`."""
    logit_scale: float | None = None
    """Initial inverse temperature; by default the architecture's own (1/0.07, or 10 for the sigmoid loss)."""
    logit_bias: float | None = None
    """Initial logit bias; by default none, or -10 for the sigmoid loss."""
    image_size: int | None = None
    """Side of the pictures in pixels, in place of the architecture's own; loaded positions are interpolated."""
    context_length: int | None = None
    """Tokens of a caption, in place of the architecture's own; loaded positions are interpolated."""

    def __post_init__(self) -> None:
        if self.init is not None and self.inline is not None:
            raise UserError("model.init brings its own architecture: remove model.inline")
        if self.logit_scale is not None and self.logit_scale <= 0:
            raise UserError(
                f"model.logit_scale={self.logit_scale}: expected a positive inverse temperature, such as 14.3"
            )
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"model.image_size={self.image_size}: expected a size in pixels, such as 224")
        if self.context_length is not None:
            check_context_length(self.context_length, "model.context_length")


def model_cfg_of(arch: str) -> dict[str, Any]:
    """The open_clip `model_cfg` of a preset or of one of open_clip's own names.

    Raises:
        UserError: the name is unknown; the message holds the nearest ones.
    """
    check_arch(arch)
    if arch in PRESETS:
        return deepcopy(PRESETS[arch])
    import open_clip

    found = open_clip.get_model_config(arch.replace("/", "-"))
    assert found is not None, arch
    return found


def check_arch(arch: str) -> None:
    """Refuse an unknown name, from the names of open_clip's files alone: importing it takes seconds.

    Raises:
        UserError: the name is unknown; the message holds the nearest ones.
    """
    known = [*PRESETS, *names_of_open_clip()]
    if arch in PRESETS or arch.replace("/", "-") in known:
        return
    raise UserError(
        f"model.arch={arch!r} is neither a preset of mmclip ({', '.join(PRESETS)}) nor an architecture of open_clip; "
        f"nearest: {', '.join(nearest(arch, known)) or 'none'}"
    )


def names_of_open_clip() -> list[str]:
    """Its architectures, from the names of its files alone where it is not imported yet."""
    if "open_clip" in sys.modules:  # then those that a program has registered count too
        import open_clip

        return open_clip.list_models()
    spec = importlib.util.find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    return sorted(path.stem for folder in folders or [] for path in (Path(folder) / "model_configs").glob("*.json"))


def check_model_cfg(model_cfg: Mapping[str, Any], where: str) -> None:
    """Refuse a table that is not a two-tower model.

    Raises:
        UserError: a required key is missing, or the model has a third part (CoCa's decoder).
    """
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_cfg]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}: expected open_clip's model_cfg (embed_dim, vision_cfg, text_cfg)"
        )
    if "multimodal_cfg" in model_cfg:
        raise UserError(
            f"{where} is a CoCa model (multimodal_cfg): mmclip trains two towers; choose one without a decoder"
        )
    tables = {name: model_cfg[name] for name in ("vision_cfg", "text_cfg")}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UserError(f"{where}.{name}: expected a table of open_clip's settings, got {table!r:.80}")
        _check_kinds(table, f"{where}.{name}")
    check_context_length(tables["text_cfg"].get("context_length", 77), f"{where}.text_cfg.context_length")


def _check_kinds(table: Mapping[str, Any], where: str) -> None:
    """Refuse what other libraries would stumble over without naming it."""
    for name, (kind, words) in KINDS.items():
        if table.get(name) is not None and not isinstance(table[name], kind):
            raise UserError(f"{where}.{name}={table[name]!r:.80}: expected {words}")


def check_context_length(length: Any, where: str) -> None:
    """Refuse a length that holds no caption.

    Raises:
        UserError: it is below `SHORTEST_CONTEXT`, or no integer.
    """
    if not isinstance(length, int) or length < SHORTEST_CONTEXT:
        raise UserError(
            f"{where}={length}: expected at least {SHORTEST_CONTEXT} (a start, one word, an end); "
            "CLIP has 77, a caption of a dozen words needs about 20"
        )
