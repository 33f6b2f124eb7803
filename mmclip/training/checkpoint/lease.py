"""Who may write into a run folder: the newest of those who ever asked, known by a number that only grows (a fencing token).

A trainer whose machine was given up for lost may still be alive, and go on. Each start takes the next token by making a file
that may be made only once; a publish is refused from the moment on that a higher one is there. Nothing hangs on clocks.
Fencing: Gray and Cheriton 1989 on leases; Kleppmann 2017, Designing Data-Intensive Applications, chapter 8.
"""

import errno
import json
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import MachineError

LEASES, CHECKPOINTS, TEMPORARY = "leases", "checkpoints", ".tmp-"
KEPT = 16
"""Files of former trainers that stay, to be looked at."""


class StaleLeaseError(MachineError):
    """Another trainer has taken over the run: nothing more is written by this one."""


@dataclass(frozen=True)
class Lease:
    """The right to write, until a higher token is there."""

    run: Path
    token: int

    def check(self) -> None:
        """Refuse to go on for a trainer that was replaced.

        Raises:
            StaleLeaseError: it was, naming by whom.
            OSError: the run folder is gone, or does not answer: it cannot be told.
        """
        newest = newest_token(self.run)
        if newest < self.token:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(_path(self.run, self.token)))
        if newest > self.token:
            raise StaleLeaseError(
                f"{self.run}: {_who(_path(self.run, newest))} has taken over this run (token {newest}, this one has "
                f"{self.token}): this process stops, and publishes nothing more"
            )


def claim(run: Path) -> Lease:
    """Take the next token, and take away what others have begun to write: their last rename then fails."""
    (run / LEASES).mkdir(parents=True, exist_ok=True)
    token = newest_token(run)
    while True:
        token += 1
        try:
            with _path(run, token).open("x", encoding="utf-8") as file:
                json.dump(_this_process(), file)
            break
        except FileExistsError:
            continue
    for half in (run / CHECKPOINTS).glob(f"{TEMPORARY}*"):
        shutil.rmtree(half, ignore_errors=True)
    for old in sorted((run / LEASES).glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return Lease(run, token)


def newest_token(run: Path) -> int:
    """The token of whoever asked last; 0 where nobody has."""
    try:
        names = os.listdir(run / LEASES)
    except FileNotFoundError:
        return 0
    return max(
        (int(stem) for stem, end in map(os.path.splitext, names) if end == ".json" and stem.isdigit()), default=0
    )


def living_holder(run: Path) -> str | None:
    """The process of this machine that trains in `run` right now, in words; None where there is none, or none is known.

    A process that is stopped (SIGSTOP, a debugger) counts as none: it is fenced off, and a new one goes on.
    """
    path = _path(run, newest_token(run))
    try:
        holder = json.loads(path.read_text())
        state, started = _state_of(int(holder["pid"]))
        alive = (holder["boot"], holder["started"]) == (_boot(), started) and state not in "ZXTt"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _who(path) if alive and int(holder["pid"]) != os.getpid() else None


def _path(run: Path, token: int) -> Path:
    return run / LEASES / f"{token:08d}.json"


def _who(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "boot": _boot(), "started": _state_of(pid)[1]}


def _boot() -> str:
    """Which start of which machine this is; empty where the system does not tell."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""


def _state_of(pid: int) -> tuple[str, int]:
    """The letter of a process's state, and when it started in ticks since the boot: numbers of processes come again.

    Raises:
        OSError: there is none, or the system does not tell.
    """
    if not Path("/proc").is_dir():
        return "", 0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[19])
