"""How far the memory of a process grows while a function runs, at its highest."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

CLEAR_PEAK = "5"
"""What makes Linux set the peak (VmHWM) back to what is resident now: proc(5), /proc/pid/clear_refs."""


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which the resident memory exceeds, at its peak inside `run`, what was resident before.

    Of all memory, not of torch's allocator alone: a library's own buffers count. Memory that earlier work has freed is handed
    back to the system first, because growth into it would not be seen. Call it once in a process that has run the same code
    on a small input before: what the first call loads would count otherwise.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
