"""Room for runs, temporary files and downloaded weights, and whether they can be written at all."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmclip_launch.doctor.finding import GIB, Finding, gib
from mmclip_launch.models.loading import hub_cache

ENOUGH, TOO_LITTLE = 20 * GIB, GIB
"""A checkpoint of ViT-B/32 with its optimizer is 1.8 GB, and a run keeps several."""
FEW_FILES = 10_000


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a file system has left."""

    free: int
    total: int
    free_files: int | None
    """Inodes; None where the file system has no fixed number."""
    error: str
    """Why nothing can be written there; empty where it can."""


def disk() -> Iterator[Finding]:
    """The places that a run writes to."""
    for name, place in places(os.environ).items():
        there = nearest_existing(place)
        yield room_finding(name, there, read_room(there))


def places(environment: Mapping[str, str]) -> dict[str, Path]:
    """Folders by what they are for."""
    return {
        "runs": Path("runs").absolute(),
        "temporary": Path(tempfile.gettempdir()),
        "downloads": hub_cache(environment),
    }


def nearest_existing(path: Path) -> Path:
    """The path, or the closest folder above it that exists: the one in which it would be made."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def read_room(folder: Path) -> Room:
    """Sizes in bytes; writing is tried, since permissions say nothing of a file system that is full or read-only."""
    told = os.statvfs(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mmclip-doctor-") as handle:
            handle.write(b"x" * 4096)
        error = ""
    except OSError as failure:  # read-only, no permission, full: its text says which
        error = failure.strerror or str(failure)
    return Room(
        free=told.f_bavail * told.f_frsize,
        total=told.f_blocks * told.f_frsize,
        free_files=told.f_favail if told.f_files else None,
        error=error,
    )


def room_finding(name: str, folder: Path, room: Room) -> Finding:
    """Judge one place."""
    value = f"{gib(room.free)} free of {gib(room.total)} in {folder}"
    if room.error:
        fix = "choose another place: --output for runs, TMPDIR, HF_HOME for downloads"
        return Finding(name=name, value=f"{folder} cannot be written: {room.error}", state="problem", fix=fix)
    if room.free < TOO_LITTLE:
        fix = "free some, or choose another place (--output, TMPDIR, HF_HOME)"
        return Finding(name=name, value=value, state="problem" if name == "runs" else "note", fix=fix)
    if room.free_files is not None and room.free_files < FEW_FILES:
        value = f"{value}, but only {room.free_files:,} more files"
        return Finding(name=name, value=value, state="note", fix="remove many small files")
    if room.free < ENOUGH and name == "runs":
        fix = "for larger models choose another place, or keep fewer checkpoints (--checkpoint.keep)"
        return Finding(name=name, value=f"{value}: a checkpoint of ViT-B-32 takes 1.8 GB", state="note", fix=fix)
    return Finding(name=name, value=value)
