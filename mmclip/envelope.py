"""A folder that is either whole or not there: written aside, fsynced, sealed by checksums, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from mmclip.errors import MachineError, UserError

MANIFEST = "MANIFEST.json"
ANOTHER = "copy it again from where it is whole, or take an earlier one"


class DamagedFolderError(UserError):
    """A sealed folder does not hold what its manifest says."""


def publish(folder: Path, write: Callable[[Path], None], expected_bytes: int = 0) -> None:
    """Let `write` fill a temporary folder and make it appear as `folder` in one step; an older `folder` is replaced.

    A kill at any moment leaves the old state or the new one, and at most a `.tmp-` folder that the next call removes.

    Raises:
        MachineError: the disk cannot take it (`expected_bytes`, where known, are asked for first); nothing is left behind.
    """
    temporary = folder.parent / f".tmp-{folder.name}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        if shutil.disk_usage(folder.parent).free < expected_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        write(temporary)
        _seal(temporary)
    except (OSError, SafetensorError) as error:  # safetensors tells a full disk in its own kind
        free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
        shutil.rmtree(temporary, ignore_errors=True)
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        needs = f"it needs about {expected_bytes:,} bytes, and " if expected_bytes else ""
        raise MachineError(
            f"{folder} cannot be written: {reason}; {needs}{free:,} bytes are free in {folder.parent}; "
            "what stood there before is whole: free some room or mend the disk, then continue with --resume"
        ) from error
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _fsync(folder.parent)


def _seal(folder: Path) -> None:
    """Write the manifest and bring everything to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps({"version": 1, "files": sums}, indent=1, sort_keys=True) + "\n")
    for path in [*files, folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        _fsync(path)


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedFolderError: naming the first file that is missing or differs.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFolderError(
            f"{folder}: no readable {MANIFEST} ({error}): the write was cut short; {ANOTHER}"
        ) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFolderError(f"{folder}: {name} is missing though {MANIFEST} lists it; {ANOTHER}")
        if path.stat().st_size != expected["size"]:
            raise DamagedFolderError(
                f"{path}: expected {expected['size']} bytes, got {path.stat().st_size}: it was cut short; {ANOTHER}"
            )
        if sha256(path) != expected["sha256"]:
            raise DamagedFolderError(
                f"{path}: its SHA-256 differs from {MANIFEST}: the file was changed or has rotted; {ANOTHER}"
            )


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
