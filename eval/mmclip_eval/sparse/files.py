"""An autoencoder on the disk: its tensors as safetensors, what they are of as JSON; nothing that is unpickled."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmclip.envelope import publish
from mmclip.errors import UserError
from mmclip_eval.sparse.autoencoder import SparseAutoencoder
from mmclip_eval.sparse.config import SparseConfig

WEIGHTS_FILE = "autoencoder.safetensors"
CONFIG_FILE = "autoencoder.json"
_SETTINGS = TypeAdapter(SparseConfig)


def save_autoencoder(
    model: SparseAutoencoder, settings: SparseConfig, folder: Path, made_of: Mapping[str, Any] | None = None
) -> None:
    """Write `folder` whole or not at all; an older one is replaced. `made_of` says in plain values whose features it explains.

    Raises:
        UserError: something else stands there.
        MachineError: the disk cannot take it.
    """
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} exists and is no autoencoder that mmclip wrote: give another --output, or remove it")
    about = {
        "schema_version": 1,
        "width": model.width,
        "units": model.units,
        "settings": asdict(settings),
        "made_of": dict(made_of or {}),
    }

    def write(temporary: Path) -> None:
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, temporary / WEIGHTS_FILE
        )
        (temporary / CONFIG_FILE).write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    publish(folder, write)


def load_autoencoder(folder: Path) -> tuple[SparseAutoencoder, SparseConfig]:
    """What `save_autoencoder` wrote, on the CPU.

    Raises:
        UserError: a file is missing or damaged, or the two do not fit together.
    """
    try:
        about = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = _SETTINGS.validate_json(json.dumps(about["settings"]), strict=True)
        tensors = load_file(folder / WEIGHTS_FILE)
        width, units = int(about["width"]), int(about["units"])
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or folder} does not exist: expected a folder that `mmclip sparse` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, SafetensorError, ValidationError) as error:
        raise UserError(f"{folder} is no autoencoder of `mmclip sparse`, or damaged: {error}") from error
    model = SparseAutoencoder(width, units, settings.k if settings.form == "topk" else None)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE} beside it: {error}") from error
    return model.eval().requires_grad_(False), settings
