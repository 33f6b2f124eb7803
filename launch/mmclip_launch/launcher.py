"""Whether a launcher started this process; if so, it ends with it.

torchrun gives each process a session of its own and tells the kernel nothing: after its SIGKILL they would train on, and
after a requeue two trainers would write one run folder.
"""

import os
from pathlib import Path

from mmclip.parent_death import die_with_parent


def die_with_launcher() -> None:
    """Under torchrun or `accelerate launch` only: a run that was started by hand, with nohup say, outlives its shell."""
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Process 1 is a launcher in a container that runs nothing else; as any other program it has adopted an orphan.
        die_with_parent(parent if parent > 1 or _is_python(parent) else -1)
    elif "ACCELERATE_MIXED_PRECISION" in os.environ and "accelerate" in _command(parent):
        die_with_parent(parent)  # accelerate's launcher of a single process


def _is_python(process: int) -> bool:
    command = _command(process)
    return not command or any(word in command for word in ("python", "torchrun", "accelerate"))


def _command(process: int) -> str:
    """What a process was started as; empty where the system does not tell."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
