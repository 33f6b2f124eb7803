"""`--fork RUN`: a new run that goes on from a checkpoint of another one, under settings of its own.

The checkpoint is copied into the new run's folder, and the new run then resumes from it as from one of its own. The other
run is never written to.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmclip.envelope import MANIFEST, publish, sha256
from mmclip.errors import UserError
from mmclip.training.checkpoint.folders import (
    checkpoint_folder,
    folders_of,
    newest_checkpoint,
    step_of,
    verify_checkpoint,
)
from mmclip_data.shards.atomic import atomic_file
from mmclip_launch.run.beginning.folder import CONFIG, Change, changes
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.recipe.retained import RETAINED

FORKED_FROM = "forked_from.json"
FIXED = {
    "global_batch_size": "a step would be another number of samples, and both are counted",
    "model": "the checkpoint's architecture is the run's",
    "ema.decay": "whether weights are averaged stands in the checkpoint",
}
"""Fields that a fork keeps, and why."""


@dataclass(frozen=True)
class Fork:
    """What a new run goes on from."""

    checkpoint: Path
    manifest_sha256: str
    changed: Sequence[Change]

    @property
    def step(self) -> int:
        return step_of(self.checkpoint)

    def told(self) -> list[str]:
        """What a person sees of it at the start."""
        head = f"forked from {self.checkpoint}: goes on at step {self.step:,}, with other settings:"
        return [head if self.changed else head.replace("other settings:", "the same settings"), *map(str, self.changed)]


def take_fork(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take `--fork RUN` out of a command line.

    Raises:
        UserError: nothing comes behind it.
    """
    rest, fork = [], None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--fork":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("-"):
            raise UserError("--fork: expected a run folder, or a checkpoint in one, behind it")
        fork = Path(value)
    return rest, fork


def config_of_fork(source: Path) -> Path:
    """Where the configuration of the run stands that `source` is, or is a checkpoint of."""
    return (source.parent.parent if _is_checkpoint(source) else source) / CONFIG


def find_fork(source: Path, config: RunConfig, warn: Callable[[str], None]) -> Fork:
    """The newest whole checkpoint of a run, or the checkpoint that `source` is.

    Raises:
        UserError: there is none, it is not whole, or a setting differs that it fixes.
    """
    before = config_of_fork(source)
    if not before.is_file():
        raise UserError(
            f"--fork {source}: expected a run folder, or a checkpoint in one (RUN/checkpoints/step-N): there is no {before}"
        )
    if _is_checkpoint(source):
        verify_checkpoint(source)
        chosen = source
    else:
        chosen = newest_checkpoint(source, warn)
    if chosen is None:
        raise UserError(f"--fork {source}: no checkpoint of it is whole: there is nothing to go on from")
    found = [one for one in changes(load_run_config(before), config) if one.field != "output"]
    refuse_unfit(source, found)
    return Fork(chosen.resolve(), sha256(chosen / MANIFEST), found)


def refuse_unfit(source: Path, found: Sequence[Change]) -> None:
    """Refuse what a fork cannot change.

    Raises:
        UserError: naming the fields, with the reason.
    """
    unfit = [
        f"{change} ({why})"
        for field, why in FIXED.items()
        for change in found
        if f"{change.field}.".startswith(f"{field}.") and not _both_average(change)
    ]
    if unfit:
        raise UserError(
            f"--fork {source}: a fork keeps these settings, for it goes on with the weights, the moments and the position "
            "of the other run:\n" + "\n".join(unfit) + f"\nto start anew from its weights, give --model.init {source}"
        )


def _both_average(change: Change) -> bool:
    return change.field == "ema.decay" and None not in (change.before, change.now)


def note_fork(fork: Fork, folder: Path) -> None:
    """Write down where the new run comes from: first of all, so that a kill before its checkpoint is there loses nothing."""
    changed = [{"field": one.field, "before": one.before, "now": one.now} for one in fork.changed]
    table = {
        "path": str(fork.checkpoint),
        "step": fork.step,
        "manifest_sha256": fork.manifest_sha256,
        "changed": changed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / FORKED_FROM) as handle:
        handle.write((json.dumps(table, indent=1) + "\n").encode())


def take_checkpoint(fork: Fork, folder: Path) -> None:
    """Copy the checkpoint, and what was measured before the first step, into the new run.

    Raises:
        UserError: it is no longer what it was.
        MachineError: the disk cannot take it.
    """
    retained = fork.checkpoint.parent.parent / RETAINED
    if retained.is_file():
        shutil.copyfile(retained, folder / RETAINED)
    files = [path for path in sorted(fork.checkpoint.rglob("*")) if path.is_file() and path.name != MANIFEST]
    copied = checkpoint_folder(folder, fork.step)
    publish(copied, partial(_copy, fork.checkpoint, files), sum(path.stat().st_size for path in files))
    before, now = (json.loads((place / MANIFEST).read_text())["files"] for place in (fork.checkpoint, copied))
    if before != now:
        shutil.rmtree(copied)
        raise UserError(f"{fork.checkpoint} has changed while it was copied: start the fork again")


def _copy(source: Path, files: Sequence[Path], folder: Path) -> None:
    for path in files:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def unfinished_fork(folder: Path) -> Fork | None:
    """The fork whose checkpoint did not come to be copied before the process ended; None where there is no such.

    Raises:
        UserError: what it was to go on from is gone, or no longer what it was.
    """
    table = read_fork(folder)
    if table is None or folders_of(folder):
        return None
    checkpoint = Path(table["path"])
    if not (checkpoint / MANIFEST).is_file() or sha256(checkpoint / MANIFEST) != table["manifest_sha256"]:
        raise UserError(
            f"{folder} was forked from {checkpoint}, which is gone or has changed before it was copied: fork anew, into "
            "another --output"
        )
    verify_checkpoint(checkpoint)
    return Fork(checkpoint, table["manifest_sha256"], [Change(**change) for change in table["changed"]])


def read_fork(folder: Path) -> dict[str, Any] | None:
    """What `note_fork` wrote; None of a run that is no fork.

    Raises:
        UserError: the file is not what was written.
    """
    path = folder / FORKED_FROM
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        return {name: table[name] for name in ("path", "step", "manifest_sha256", "changed")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what mmclip writes ({error}): restore it, or fork anew") from error


def is_fork_at(folder: Path, step: int) -> bool:
    """Whether the checkpoint of this step is the one that the run was forked from."""
    table = read_fork(folder)
    return table is not None and table["step"] == step


def _is_checkpoint(source: Path) -> bool:
    return (source / MANIFEST).is_file() and source.parent.name == "checkpoints"
