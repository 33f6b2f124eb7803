"""Weights in open_clip's folder layout: what stock open_clip opens as `local-dir:FOLDER`."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.two_tower import TwoTower

WEIGHTS_FILE = "open_clip_model.safetensors"
CONFIG_FILE = "open_clip_config.json"


def save_weights(model: TwoTower, folder: Path) -> None:
    """Write weights, configuration and tokenizer files into an existing folder."""
    save_file(_file_tensors(model), folder / WEIGHTS_FILE)
    table = {"model_cfg": _explicit(model), "preprocess_cfg": model.spec.to_open_clip()}
    (folder / CONFIG_FILE).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    model.tokenizer.save(folder)


def load_weights(folder: Path) -> TwoTower:
    """Build the model that a folder describes and fill it, every parameter accounted for.

    Raises:
        UserError: a file is missing or unreadable, or names and shapes do not match the description.
    """
    table = read_config(folder)
    weights = _weights_in(folder)
    model_cfg = table["model_cfg"]
    model = TwoTower(model_cfg, tokenizer=Tokenizer(model_cfg["text_cfg"], folder))
    model.spec = ImageSpec.from_open_clip(table.get("preprocess_cfg") or {}, model.backbone.visual.image_size)
    fill(model, weights)
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """The table of `open_clip_config.json`.

    Raises:
        UserError: it is missing, is no JSON, or lacks `model_cfg`.
    """
    path = folder / CONFIG_FILE
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("model_cfg"), dict):
        raise UserError(f"{path} has no table 'model_cfg': expected open_clip's layout {{model_cfg, preprocess_cfg}}")
    return table


def fill(model: TwoTower, weights: Path) -> None:
    """Load a weights file of open_clip (safetensors, or a pickle read with `weights_only`) into `model`, strictly.

    Raises:
        UserError: the file is unreadable, or keys or shapes differ from the model's.
    """
    from open_clip.factory import load_checkpoint

    try:
        load_checkpoint(model.backbone, str(weights), strict=True, weights_only=True)
    except Exception as error:  # every reader beneath raises its own kinds: safetensors, zipfile, pickle, torch
        reason = " ".join(str(error).split())[:600]
        raise UserError(
            f"{weights} does not fit the model that its configuration describes: {type(error).__name__}: {reason}"
        ) from error


def _weights_in(folder: Path) -> Path:
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise UserError(f"{folder} holds no weights: expected {WEIGHTS_FILE} or another *.safetensors, *.bin or *.pth")
    return Path(found)


def _file_tensors(model: TwoTower) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.backbone.state_dict().items()}
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(())  # open_clip's files hold 0-d scalars
    return state


def _explicit(model: TwoTower) -> dict[str, Any]:
    """The table with the two settings written out that a reader would otherwise guess, and guess wrong."""
    table = {**model.model_cfg, "quick_gelu": bool(model.model_cfg.get("quick_gelu", False))}
    if model.logit_bias is not None:
        table.setdefault("init_logit_bias", -10.0)
    return table
