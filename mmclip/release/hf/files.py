"""A folder in the layout of transformers, on this disk or in the hub, and the tensors in it."""

from pathlib import Path

from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.tensors import read_tensors
from mmclip.towers.weights import read_json

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def hf_folder(name: str) -> Path:
    """The folder of that name, or the snapshot of a repository of the hub.

    Raises:
        UserError: there is neither, or it has no `config.json`.
    """
    from mmclip.release.hub import downloaded

    path = Path(name)
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if not path.is_dir() and looks_like_path:
        raise UserError(f"{name} is no folder: expected one of transformers, with {CONFIG} and {WEIGHTS[0]}")
    folder = path if path.is_dir() else downloaded(name)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}: expected a folder of transformers")
    return folder


def hf_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model, which may stand in several files.

    Raises:
        UserError: a file is missing or damaged, or holds more than tensors.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    for name in INDEXES:
        if (folder / name).is_file():
            files = sorted(set(read_json(folder / name)["weight_map"].values()))
            parts = [read_tensors(folder / Path(file).name) for file in files]
            return {key: tensor for part in parts for key, tensor in part.items()}
    raise UserError(f"{folder} holds no weights: expected {', '.join((*WEIGHTS, *INDEXES))}")
