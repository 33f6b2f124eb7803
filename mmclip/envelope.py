"""A folder that is either whole or not there: written aside, fsynced, sealed by checksums, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mmclip.errors import UserError

MANIFEST = "MANIFEST.json"


class DamagedFolderError(UserError):
    """A sealed folder does not hold what its manifest says."""


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder and make it appear as `folder` in one step; an older `folder` is replaced.

    A kill at any moment leaves the old state or the new one, and at most a `.tmp-` folder that the next call removes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".tmp-{folder.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write(temporary)
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    sums = {str(path.relative_to(temporary)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    (temporary / MANIFEST).write_text(json.dumps({"version": 1, "files": sums}, indent=1, sort_keys=True) + "\n")
    for path in [*files, temporary / MANIFEST, *(path for path in temporary.rglob("*") if path.is_dir()), temporary]:
        _fsync(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _fsync(folder.parent)


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedFolderError: naming the first file that is missing or differs.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFolderError(f"{folder}: no readable {MANIFEST} ({error}); the write was cut short") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFolderError(f"{folder}: {name} is missing though {MANIFEST} lists it")
        if path.stat().st_size != expected["size"]:
            raise DamagedFolderError(f"{path}: expected {expected['size']} bytes, got {path.stat().st_size}")
        if sha256(path) != expected["sha256"]:
            raise DamagedFolderError(f"{path}: its SHA-256 differs from {MANIFEST}: the file was changed or has rotted")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
