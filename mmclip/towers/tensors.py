"""Tensors of a file, by name, without running anything that the file says."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.layout import LAYOUT, read_all
from mmclip.towers.torchscript import is_torchscript, read_torchscript


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a layout of several, of a TorchScript archive, or of a pickle of tensors alone.

    A training checkpoint's `state_dict` is taken out of it, and `module.`, which DDP puts before every name, goes.

    Raises:
        UserError: it is missing, cut short, damaged, holds other objects, or is no table of tensors.
    """
    refuse_missing(path)
    if path.name.endswith(LAYOUT):
        return read_all(path)
    if path.suffix == ".safetensors":
        refuse_cut_weights(path)
        return load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    table = read_pickle(path)
    state = table.get("state_dict", table)
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path} holds no table of tensors by name: expected a state dict")
    tensors = {name.removeprefix("module."): value for name, value in state.items()}
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(f"{path}: {others[0]} is no tensor: expected a state dict, of tensors by name alone")
    return tensors


def read_pickle(path: Path) -> dict[str, Any]:
    """A table of tensors and plain values, read with torch's `weights_only` reader.

    Raises:
        UserError: it is damaged, or holds other objects.
    """
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers beneath raise their own kinds: zipfile, pickle, torch
        raise UserError(unreadable(path, error)) from error
    if not isinstance(table, dict):
        raise UserError(f"{path} holds a {type(table).__name__}: expected a state dict, of tensors by name")
    return table


def refuse_missing(path: Path) -> None:
    """Refuse a path without a file.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: expected weights (.safetensors, .pt, .pth or .bin)")


def refuse_cut_weights(weights: Path) -> None:
    """Read the head of a safetensors file, which tells how long the file must be; other files are left to their reader.

    Raises:
        UserError: it is cut or no safetensors file.
    """
    if not weights.is_file():
        return
    try:
        with safe_open(weights, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{weights} cannot be read as weights ({error}): cut short or damaged; copy it again from where it is whole"
        ) from error


def unreadable(path: Path, error: Exception) -> str:
    """Torch answers with pages, or with the advice to run a pickle's code: here is what matters of it."""
    if type(error).__name__ == "UnpicklingError":
        return (
            f"{path} holds more than tensors, or is no weights file: expected tensors alone, since other pickled "
            "objects can run code and are never loaded; ask its author for safetensors"
        )
    text = " ".join(str(error).split())
    return (
        f"{path} cannot be read as weights ({type(error).__name__}: {text[:200]}): cut short or damaged; "
        "copy it again from where it is whole"
    )
