"""How this process was started, by whom, and what that asks of it before torch is imported, which takes seconds.

Whether a launcher started it; if so, it ends with it.

torchrun gives each process a session of its own and tells the kernel nothing: after its SIGKILL they would train on, and
after a requeue two trainers would write one run folder.
"""

import os
import signal
import sys
from pathlib import Path

from mmclip.parent_death import die_with_parent

EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command with --resume goes on. A scheduler starts it again."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TRAINING_VERBS = ("train", "finetune", "demo")
_TRAINER = "MMCLIP_TRAINER"
"""In the environment: the process that its own children know as no launcher."""


def die_with_launcher() -> None:
    """Under torchrun or `accelerate launch` only: a run that was started by hand, with nohup say, outlives its shell."""
    parent = os.getppid()
    if os.environ.get(_TRAINER) == str(parent):
        return  # a trainer's own helper, which ends what it has begun, and then itself
    os.environ[_TRAINER] = str(os.getpid())
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


def answer_signals_early() -> None:
    """A command that trains and is told to end while it is still importing says so by its exit code."""
    if is_training(sys.orig_argv):
        for number in STOP_SIGNALS:
            signal.signal(number, _leave)


def is_training(command: list[str]) -> bool:
    """Whether a command is one of ours that trains: `mmclip train`, or a module of that name."""
    pairs = list(zip(command, command[1:], strict=False))
    return any(
        (first == "-m" and second in [f"mmclip_launch.{verb}" for verb in TRAINING_VERBS])
        or (Path(first).name == "mmclip" and second in TRAINING_VERBS)
        for first, second in pairs
    )


def _leave(number: int, frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        name = signal.Signals(number).name
        print(
            f"mmclip: {name}: ended while it was starting, where nothing was to be saved", file=sys.stderr, flush=True
        )
    os._exit(EXIT_REQUEUE)
