"""Runs a trainer's own module and notes the moment and the CPU time of each of its optimizer steps.

    python -P benchmarks/measure/probe.py NOTES.json MODULE [ARGUMENT ...]

The same file watches both sides, from torch's own hook behind every optimizer's `step`: no log is parsed, and neither
trainer is asked how fast it is. A note costs some microseconds. The notes are written when the process ends:
`[[seconds, cpu_seconds], ...]`, seconds on the system's monotonic clock, CPU of this process and its loader processes.
"""

import atexit
import importlib
import json
import multiprocessing
import os
import runpy
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """User and system time of this process, of the children that live and of those that have ended."""
    own = os.times()
    finished = own.children_user + own.children_system
    living = sum(_cpu_of(child.pid) for child in multiprocessing.active_children() if child.pid)
    return own.user + own.system + finished + living


def _cpu_of(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:  # it ended between the list and this line, and counts among the finished from now on
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name before the bracket may hold blanks
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    notes_path, module, *arguments = sys.argv[1:]
    importlib.import_module(module.partition(".")[0])  # a package may set variables that torch reads when it is loaded
    from torch.optim.optimizer import register_optimizer_step_post_hook

    notes: list[tuple[float, float]] = []
    register_optimizer_step_post_hook(lambda *_: notes.append((time.monotonic(), cpu_seconds())))
    atexit.register(lambda: Path(notes_path).write_text(json.dumps(notes)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
