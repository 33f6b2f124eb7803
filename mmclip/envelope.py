"""A folder that is either whole or not there: written aside, fsynced, sealed by checksums, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError

from mmclip.errors import MachineError, UserError

MANIFEST = "MANIFEST.json"
ANOTHER = "copy it again from where it is whole, or take an earlier one"
ASIDE = ".old-"
"""Before the name of a folder that is being replaced."""


class DamagedFolderError(UserError):
    """A sealed folder does not hold what its manifest says."""


class Sum(TypedDict):
    """What the manifest says of a file."""

    size: int
    sha256: str


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
        refuse_small_room(folder.parent, expected_bytes)
        temporary.mkdir()
        write(temporary)
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in paths:
            fsync(path)
        seal(temporary, {str(path.relative_to(temporary)): sum_of(path) for path in paths})
    except (OSError, SafetensorError) as error:  # safetensors tells a full disk in its own kind
        shutil.rmtree(temporary, ignore_errors=True)
        raise MachineError(why_not(folder, error, expected_bytes)) from error
    appear(temporary, folder)


def refuse_small_room(folder: Path, expected_bytes: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        OSError: as a write would.
    """
    if shutil.disk_usage(folder).free < expected_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def why_not(folder: Path, error: Exception, expected_bytes: int = 0) -> str:
    """What a person reads of a folder that could not be written."""
    free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    needs = f"it needs about {expected_bytes:,} bytes, and " if expected_bytes else ""
    return (
        f"{folder} cannot be written: {reason}; {needs}{free:,} bytes are free in {folder.parent}; "
        "what stood there before is whole: free some room or mend the disk, then continue with --resume"
    )


def seal(folder: Path, sums: Mapping[str, Sum]) -> None:
    """Write the manifest of files that are on the disk, and bring it and the folders there too."""
    table = {"version": 1, "files": dict(sums)}
    (folder / MANIFEST).write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    for path in [folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        fsync(path)


def appear(temporary: Path, folder: Path) -> None:
    """Rename a sealed folder; what stood under the name goes only then.

    Raises:
        FileNotFoundError: somebody has taken the temporary folder away.
    """
    old = folder.parent / f"{ASIDE}{folder.name}"
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    temporary.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedFolderError: naming the first file that is missing or differs.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolderError(
            f"{folder}: no readable {MANIFEST} ({error}): the write was cut short; {ANOTHER}"
        ) from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFolderError(f"{folder}: {name} is missing though {MANIFEST} lists it; {ANOTHER}")
        if path.stat().st_size != size:
            raise DamagedFolderError(
                f"{path}: expected {size} bytes, got {path.stat().st_size}: it was cut short; {ANOTHER}"
            )
        if sha256(path) != digest:
            raise DamagedFolderError(
                f"{path}: its SHA-256 differs from {MANIFEST}: the file was changed or has rotted; {ANOTHER}"
            )


def sum_of(path: Path) -> Sum:
    """A file's line in the manifest."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
