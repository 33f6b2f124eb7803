"""One copy of a checkpoint to a mirror: its files, those of the run, and the manifest last."""

import hashlib
import json
from pathlib import Path

from mmclip.envelope import MANIFEST, Sum
from mmclip.training.checkpoint.folders import step_of
from mmclip.training.checkpoint.lease import CHECKPOINTS
from mmclip_launch.mirror.place import RUN_FILES, Copy, Holder, Place

KINDS = (".jsonl", ".toml", ".json", ".txt")
"""Files of a run folder that a run that goes on elsewhere needs, by the ends of their names; a rank's number may follow."""


def upload(place: Place, holder: Holder, run: Path, folder: Path) -> Copy:
    """Copy a whole checkpoint.

    Raises:
        StaleLeaseError: another trainer has taken over; the copy stays without a manifest.
        StoreError: the store failed for too long.
        OSError: a file cannot be read.
    """
    place.check(holder)
    copy = Copy(step_of(folder), holder)
    sums: dict[str, Sum] = json.loads((folder / MANIFEST).read_text())["files"]
    for name in sums:
        place.store.upload(folder / name, place.at(CHECKPOINTS, copy.name, name))
    for path in run_files(run):
        content, name = path.read_bytes(), f"{RUN_FILES}{path.name}"  # a moment of it: the run goes on writing
        place.store.write(place.at(CHECKPOINTS, copy.name, name), content)
        sums[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    place.check(holder)
    table = {"version": 1, "files": sums}
    place.store.write(place.at(CHECKPOINTS, copy.name, MANIFEST), json.dumps(table, indent=1, sort_keys=True).encode())
    return copy


def run_files(run: Path) -> list[Path]:
    """The run folder's own files: configuration, ledger, metrics and what else has lines."""
    found = [path for path in run.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(path for path in found if path.name.partition(".rank")[0].endswith(KINDS))
