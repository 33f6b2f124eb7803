"""Where the checkpoints of a run stand, which one loads, and which ones go."""

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from mmclip.envelope import ANOTHER, ASIDE, DamagedFolderError, verify
from mmclip.training.checkpoint.lease import CHECKPOINTS

LATEST = "latest"
"""A link beside the checkpoints, for people and scripts; mmclip itself looks for the newest that verifies."""

CARRIERS = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".distcp", ".metadata", ".joblib", ".dill"})
"""Ends of the names of files that run code in one loader or another (pickles); a checkpoint has none."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step whose checkpoint stands there."""
    return int(folder.name.removeprefix("step-"))


def folders_of(run: Path) -> list[Path]:
    """All checkpoints of a run, whole or not, the newest last: by step, never by the time of a file."""
    found = [path for path in (run / CHECKPOINTS).glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=step_of)


def verify_checkpoint(folder: Path) -> None:
    """As `mmclip.envelope.verify`, and nothing that could carry code stands beside.

    Raises:
        DamagedFolderError: naming the file.
    """
    carriers = [path.name for path in folder.rglob("*") if {path.suffix, path.name} & CARRIERS]
    if carriers:
        raise DamagedFolderError(
            f"{folder}: {min(carriers)} is of a kind that can carry code, which mmclip never writes: somebody else put it "
            f"there; {ANOTHER}"
        )
    verify(folder)


def newest_checkpoint(run: Path, on_skip: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a run whose manifest verifies; `on_skip` hears of each newer one that does not."""
    for folder in reversed(folders_of(run)):
        try:
            verify_checkpoint(folder)
        except DamagedFolderError as error:
            on_skip(str(error))
        else:
            return folder
    return None


def settle(folder: Path, keep: int, spared: Collection[str] = (), every_steps: int | None = None) -> str | None:
    """Let `latest` point to the newest checkpoint, which was read back, then delete all but the newest `keep`.

    Those named in `spared`, and those of steps that `every_steps` divides, stay. Returned is what a person should know.
    """
    told = _point_latest(folder)
    for old in folders_of(folder.parent.parent)[: -max(1, keep)]:
        is_milestone = every_steps is not None and step_of(old) % every_steps == 0
        if old.name not in spared and not is_milestone:
            aside = old.with_name(f"{ASIDE}{old.name}")  # a kill in between leaves no half of a checkpoint
            old.rename(aside)
    for left in folder.parent.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)
    return told


def _point_latest(folder: Path) -> str | None:
    """Move the link; a reason where the file system has no links."""
    link = folder.with_name(LATEST)
    temporary = link.with_name(f".{LATEST}-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(link)
    except OSError as error:
        return f"{link}: {error.strerror}"
    return None
