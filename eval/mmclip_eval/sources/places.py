"""Where the pictures lie that a table or an annotation file names, and the file itself."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_eval.sources.config import SourceConfig


def read_json(path: Path) -> Any:
    """The content of an annotation file.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error


def picture_folder(config: SourceConfig, names: Iterable[str]) -> tuple[Path, tuple[str, ...]]:
    """Where relative paths begin, and what is to be noted of that.

    As configured; else beside the file that names them; else, where the first of `names` is not there, in the one folder
    beside it that has that.
    """
    if config.image_folder is not None:
        return Path(config.image_folder), ()
    root = Path(config.path).parent
    first = next(iter(names), None)
    if first is None or picture_path(root, first).is_file():
        return root, ()
    found = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and picture_path(folder, first).is_file()]
    return (found[0], (f"paths of pictures begin in {found[0]}",)) if len(found) == 1 else (root, ())


def picture_path(folder: Path, name: str) -> Path:
    """The file of a picture; where a name has no ending, the one that is there."""
    path = folder / name
    if path.suffix or path.is_file():
        return path
    candidates = (path.with_name(f"{path.name}.{ending}") for ending in IMAGE_EXTENSIONS)
    return next((candidate for candidate in candidates if candidate.is_file()), path)
