"""From the `[model]` table of a run to open_clip's description of an architecture."""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.towers.presets import PRESETS


@config
class ModelConfig:
    """Which two towers to build, and from which weights to start."""

    arch: str = "tiny-vit-64"
    """A preset of mmclip or any architecture name of open_clip (ViT-B-32, RN50, ...); ignored where `init` names one."""
    inline: dict[str, Any] | None = None
    """An open_clip `model_cfg` table written out, in place of `arch`."""
    init: str | None = None
    """Weights to start from: `open_clip:ARCH/TAG`, `local-dir:FOLDER` or the folder of an mmclip run or checkpoint."""
    logit_scale: float | None = None
    """Initial inverse temperature; by default the architecture's own (1/0.07, or 10 for the sigmoid loss)."""
    logit_bias: float | None = None
    """Initial logit bias; by default none, or -10 for the sigmoid loss."""


def model_cfg_of(arch: str) -> dict[str, Any]:
    """The open_clip `model_cfg` of a preset or of one of open_clip's own names.

    Raises:
        UserError: the name is unknown; the message holds the nearest ones.
    """
    if arch in PRESETS:
        return deepcopy(PRESETS[arch])
    import open_clip

    found = open_clip.get_model_config(arch.replace("/", "-")) if ":" not in arch else None
    if found is not None:
        return found
    known = [*PRESETS, *open_clip.list_models()]
    near = difflib.get_close_matches(arch, known, n=3, cutoff=0.4)
    raise UserError(
        f"model.arch={arch!r} is neither a preset of mmclip ({', '.join(PRESETS)}) nor an architecture of open_clip; "
        f"nearest: {', '.join(near) or 'none'}"
    )


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
