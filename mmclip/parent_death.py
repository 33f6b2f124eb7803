"""A process that ends with its parent: what a launcher or a trainer started must not go on alone, into the same run folder."""

import os
import signal
import sys
import threading
import time

POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int, parent_thread_lasts: bool = True) -> None:
    """End this process by SIGKILL as soon as process `parent`, which started it, is gone; at once if it is gone already.

    The kernel does so on Linux, but as soon as the *thread* that started this process ends: where that thread is not sure
    to last as long as its process (`parent_thread_lasts`), and on other systems, a thread asks once a second.
    """
    by_kernel = parent_thread_lasts and sys.platform == "linux" and _ask_kernel()
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
    if not by_kernel:
        threading.Thread(target=_poll, args=(parent,), daemon=True, name="parent-death").start()


def _ask_kernel() -> bool:
    import ctypes

    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0
    except (OSError, AttributeError):  # no C library to call: the thread asks
        return False


def _poll(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
