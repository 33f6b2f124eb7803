"""What a person reads when a command fails: one message, and an exit code that says whose turn it is.

The traceback of a fault of ours is kept in a file, so that days of training do not end in one line; `--debug` shows it.
"""

import errno
import os
import re
import select
import shutil
import sys
import tempfile
import time
import traceback
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mmclip.errors import BadSampleError, GuardError, MachineError, PreemptedError, UndecidedError, UserError
from mmclip_launch.launcher import EXIT_REQUEUE

EXIT_FAULT, EXIT_USER_ERROR, EXIT_MACHINE, EXIT_GUARD, EXIT_UNDECIDED = 1, 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 130, 141

RUN_FOLDER: ContextVar[Path | None] = ContextVar("RUN_FOLDER", default=None)
"""The run folder of this process once it is claimed: where the traceback of a fault is kept."""

GRACE_SECONDS = 5.0
"""How long a rank other than the first waits before it speaks: a mistake that all share ends rank 0 meanwhile, whose
message is enough, and the launcher then ends the others."""

_STORE_FAILED = "the disk or the network share failed: check it"
ADVICE = {
    errno.ENOSPC: "the disk is full: free some room there, or give another folder",
    errno.EDQUOT: "your quota is used up: free some room there, or give another folder",
    errno.EROFS: "it is mounted read-only: give a folder on another disk, or mount it for writing",
    errno.EACCES: "this user may not: change the permissions, or give another folder",
    errno.EPERM: "this user may not: change the permissions, or give another folder",
    errno.EMFILE: "this process has too many files open: raise the limit (`ulimit -n`), or lower data.workers",
    errno.ENFILE: "the machine has too many files open: close other programs",
    errno.EIO: _STORE_FAILED,
    errno.ESTALE: _STORE_FAILED,
    errno.ETIMEDOUT: _STORE_FAILED,
    errno.ENOENT: "it was there before, or should have been: was it moved or removed meanwhile?",
}
LOST_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|nccl|timed? ?out|remote peer|store->", re.IGNORECASE
)


class Fault(NamedTuple):
    """How a failed command ends."""

    code: int
    message: str
    keep_traceback: bool = False
    follows_another: bool = False
    """Whether another rank failed first, whose message tells more than this one."""


def report(error: BaseException, debug: bool) -> int:
    """Tell the person what went wrong, once for all ranks, and return the exit code."""
    if isinstance(error, BrokenPipeError) and _output_is_closed():
        return EXIT_PIPE_CLOSED
    fault = describe(error)
    if fault.code == EXIT_REQUEUE and os.environ.get("RANK", "0") != "0":
        return fault.code  # all ranks end for one reason, and the first says it
    rank, several = int(os.environ.get("RANK", "0")), os.environ.get("WORLD_SIZE", "1") != "1"
    kept = _keep(error, rank) if fault.keep_traceback else ""
    if several and (rank or fault.follows_another):
        time.sleep(GRACE_SECONDS)
    if debug:
        traceback.print_exception(error)
    where = f"rank {rank}: " if several and rank else ""
    print(f"mmclip: {where}{fault.message}{kept}", file=sys.stderr, flush=True)
    return fault.code


def describe(error: BaseException) -> Fault:
    """The message and the exit code of what a verb raised."""
    if isinstance(error, UserError | BadSampleError):
        return Fault(EXIT_USER_ERROR, str(error))
    if isinstance(error, MachineError):
        return Fault(EXIT_MACHINE, str(error))
    if isinstance(error, GuardError):
        return Fault(EXIT_GUARD, str(error))
    if isinstance(error, UndecidedError):
        return Fault(EXIT_UNDECIDED, str(error))
    if isinstance(error, PreemptedError):
        return Fault(EXIT_REQUEUE, str(error))
    if isinstance(error, KeyboardInterrupt):
        hint = "; `--resume` continues from the last checkpoint" if RUN_FOLDER.get() else ""
        return Fault(EXIT_INTERRUPTED, f"interrupted{hint}")
    if isinstance(error, MemoryError) or _is_torch(error, "OutOfMemoryError"):
        return Fault(EXIT_MACHINE, _out_of_memory(error), keep_traceback=True)
    if isinstance(error, OSError) and error.errno is not None:
        return Fault(EXIT_MACHINE, _refused_by_system(error), keep_traceback=error.errno not in ADVICE)
    if is_lost_peer(error):
        reason = " ".join(str(error).split())[:200]
        message = f"lost contact with another process of this run, whose own message tells why ({reason})"
        return Fault(EXIT_MACHINE, message, keep_traceback=True, follows_another=True)
    text = " ".join(str(error).split())[:500]
    message = f"internal error: {type(error).__name__}: {text}; this is a fault of mmclip"
    return Fault(EXIT_FAULT, message, keep_traceback=True)


def _refused_by_system(error: OSError) -> str:
    folder = RUN_FOLDER.get()
    place = error.filename or (f"run folder {folder}" if folder else "a file")
    advice = ADVICE.get(error.errno or 0, "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"{free_bytes(Path(os.fsdecode(error.filename or folder or '.'))):,} bytes free; {advice}"
    hint = "; `--resume` continues from the last checkpoint" if folder else ""
    return f"{place}: {error.strerror}{'; ' if advice else ''}{advice}{hint}"


def free_bytes(path: Path) -> int:
    """Room for this user on the disk that `path` is on, or would be."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(there).free


def _out_of_memory(error: BaseException) -> str:
    text = " ".join(str(error).split()).partition(". ")[0] or "the machine has no more memory"
    return (
        f"out of memory: {text}; lower global_batch_size, train on more processes, take a smaller model or precision "
        "bf16, or lower data.workers if it was the machine's own memory"
    )


def is_lost_peer(error: BaseException) -> bool:
    """Whether `error` says no more than that another process of the run is gone."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    return _is_torch(error, "DistError") or (isinstance(error, RuntimeError) and bool(LOST_PEER.search(str(error))))


def _is_torch(error: BaseException, name: str) -> bool:
    """Whether `error` is torch's exception of this name; torch itself is never imported for it."""
    return any(kind.__name__ == name and kind.__module__.startswith("torch") for kind in type(error).__mro__)


def _keep(error: BaseException, rank: int) -> str:
    """Write the traceback beside the run, else into the temporary folder, and say where it is."""
    head = f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {' '.join(sys.argv)}\nPython {sys.version}\n"
    text = f"{head}{''.join(traceback.format_exception(error))}\n"
    folder = RUN_FOLDER.get()
    name = f"fault.rank{rank}.txt" if rank else "fault.txt"
    try:
        if folder is not None:
            with (folder / name).open("a", encoding="utf-8") as file:
                file.write(text)
            return f"; traceback: {folder / name}"
    except OSError:
        pass  # a full disk, perhaps the fault itself: the temporary folder may be on another one
    try:
        descriptor, path = tempfile.mkstemp(prefix="mmclip-fault-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return f"\n{text}"
    return f"; traceback: {path}"


def _output_is_closed() -> bool:
    """Whether it was our own output that broke, as in `mmclip models | head`; if so, nothing more is written there."""
    try:
        output = sys.stdout.fileno()
    except ValueError:  # replaced by something that is no file
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # what is still buffered goes there at the interpreter's end
    return True
