"""What a loader process does when signals come: it ends when the training process says so or is gone, and by no other sign.

Schedulers send SIGTERM and SIGUSR1 to every process of a job, and the training process needs its loader until it has saved.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmclip.parent_death import die_with_parent

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})
_CAN_TELL_SENDERS = hasattr(signal, "sigwaitinfo")


@contextmanager
def held_back() -> Iterator[None]:
    """Start loader processes in here: they are born with these signals blocked, so that none slips in before they listen.

    The same signals reach the training process when the block ends.
    """
    if not _CAN_TELL_SENDERS:  # macOS: there torch's own handlers stay, and a killed loader process is started again
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent(parent: int, parent_thread_lasts: bool) -> None:
    """In a loader process: end with the training process `parent`, or when it sends SIGTERM; let others' signals pass.

    torch sends it at the end of a loader.
    """
    die_with_parent(parent, parent_thread_lasts)
    if _CAN_TELL_SENDERS:
        threading.Thread(target=_listen, args=(parent,), daemon=True, name="worker-signals").start()


def _listen(parent: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    while True:
        told = signal.sigwaitinfo(STOP_SIGNALS)
        if told.si_signo == signal.SIGTERM and told.si_pid == parent:
            os._exit(0)
