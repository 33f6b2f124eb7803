"""A run that goes on from its mirror, where the disk has no checkpoint or an older one."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mmclip.envelope import MANIFEST, Sum, appear, fsync, seal
from mmclip.errors import UserError
from mmclip.training.checkpoint.folders import checkpoint_folder, newest_checkpoint, step_of
from mmclip.training.checkpoint.lease import CHECKPOINTS, TEMPORARY
from mmclip_data.stores.faults import NotFoundError
from mmclip_launch.mirror.place import RUN_FILES, Copy, Place

Say = Callable[[str], None]


class DamagedCopyError(UserError):
    """An object of a copy is not what its manifest says."""


def fetch_newer(place: Place, run: Path, say: Say) -> Copy | None:
    """Bring the newest whole copy into `run`, if it is newer than what the disk has; None where it is not.

    `say` hears what is brought, and of each copy that is passed over and why.

    Raises:
        StoreError: the store failed for too long.
        OSError: the disk does not take it.
    """
    local = newest_checkpoint(run, lambda reason: None)
    here = -1 if local is None else step_of(local)
    for copy in place.copies():
        if copy.step <= here:
            return None
        try:
            _bring(place, copy, run)
        except (DamagedCopyError, NotFoundError) as error:
            say(f"{place.at(CHECKPOINTS, copy.name)} is passed over: {error}")
        else:
            say(f"step {copy.step:,} comes from {place.at(CHECKPOINTS, copy.name)}")
            return copy
    return None


def _bring(place: Place, copy: Copy, run: Path) -> None:
    sums = _manifest(place, copy)
    folder = checkpoint_folder(run, copy.step)
    temporary = folder.parent / f"{TEMPORARY}fetched-{copy.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, expected in sums.items():
            _download(place, copy, name, expected, temporary / name)
        for path in (temporary / RUN_FILES).iterdir():
            path.replace(run / path.name)  # the configuration first of all: a folder without one is no run
        (temporary / RUN_FILES).rmdir()
        seal(temporary, {name: entry for name, entry in sums.items() if not name.startswith(RUN_FILES)})
        appear(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(place: Place, copy: Copy) -> dict[str, Sum]:
    url = place.at(CHECKPOINTS, copy.name, MANIFEST)
    try:
        files = json.loads(place.store.content(url))["files"]
        sums: dict[str, Sum] = {
            str(name): {"size": int(entry["size"]), "sha256": str(entry["sha256"])} for name, entry in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCopyError(f"{url} is no manifest ({error})") from error
    for name in sums:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DamagedCopyError(f"{url} names a file outside of the checkpoint: {name!r}")
    return sums


def _download(place: Place, copy: Copy, name: str, expected: Sum, path: Path) -> None:
    url = place.at(CHECKPOINTS, copy.name, name)
    facts = place.store.facts(url)
    if facts.size != expected["size"]:
        raise DamagedCopyError(f"{url}: expected {expected['size']} bytes, got {facts.size}")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def sink(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        place.store.copy(url, facts, 0, facts.size, sink)
    if digest.hexdigest() != expected["sha256"]:
        raise DamagedCopyError(f"{url}: its SHA-256 differs from the manifest")
    fsync(path)
