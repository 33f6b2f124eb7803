"""Threads that work ahead of the reads of one process, until they are told to end."""

import atexit
import os
import time
import weakref
from abc import ABC, abstractmethod
from threading import Condition, Lock, Thread

from mmclip_data.stores.waits import Interrupted, until

SECONDS_TO_STOP = 2.0
_running: "weakref.WeakSet[Background]" = weakref.WeakSet()
_threads: "weakref.WeakSet[Thread]" = weakref.WeakSet()


class Background(ABC):
    """The threads know this object and nothing that reads: whoever reads ends them, or his own end does."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.state = Condition()
        """Guards what readers and threads share. Nobody waits for a store, a disk or the plan while he has it."""
        self.turn = Lock()
        """Of the threads alone: who finds out what comes next."""
        self.reads = 0
        """Samples that the process has begun to read."""
        self.closed = False
        self.threads = 0
        self.failure: BaseException | None = None
        """What ended the threads before their time."""

    @abstractmethod
    def step(self) -> bool:
        """Do one thing more; False when there is no more to do."""

    def start(self, threads: int, name: str) -> None:
        """Begin."""
        _running.add(self)
        self.threads = threads
        for number in range(threads):
            thread = Thread(target=self._serve, daemon=True, name=f"{name}-{number}")
            _threads.add(thread)
            thread.start()

    def advance(self) -> None:
        """One sample more is read."""
        with self.state:
            self.reads += 1

    def close(self) -> None:
        """Let the threads end; what they are at is interrupted."""
        with self.state:
            self.closed = True
            self.state.notify_all()

    def let_go(self) -> None:
        """`close` for a finalizer, which runs in any thread between any two of its steps, so it must not take a lock."""
        self.closed = True

    def _serve(self) -> None:
        try:
            with until(lambda: self.closed):
                while not self.closed and self.step():
                    pass
        except Interrupted:
            self.close()
        except BaseException as error:  # it belongs to the one who reads
            self.failure = error
            self.close()


@atexit.register
def _close_all() -> None:
    """A thread that wakes up inside a library while the interpreter goes away would abort the process."""
    for background in [known for known in _running if known.owner == os.getpid()]:
        background.close()
    deadline = time.monotonic() + SECONDS_TO_STOP
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
