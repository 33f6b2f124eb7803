"""`transformers:ID_OR_FOLDER`, and a path with such a `config.json`."""

from pathlib import Path

from mmclip.errors import UserError
from mmclip.release.hf_files import hf_folder
from mmclip.towers.two_tower import TwoTower

HF_CONFIG_NAME = "config.json"


def is_transformers(folder: Path) -> bool:
    """Whether a folder is described as transformers does, and not as open_clip does."""
    from mmclip.towers.weights import CONFIG_FILE

    return (folder / HF_CONFIG_NAME).is_file() and not (folder / CONFIG_FILE).is_file()


def load_transformers(name: str) -> TwoTower:
    """A folder, or a repository of the hub."""
    return load_transformers_folder(hf_folder(name))


def load_transformers_folder(folder: Path) -> TwoTower:
    raise UserError(f"{folder}: not yet")
