"""Waiting for a store, in a way that others can cut short: whoever is to stop, and the end of the program.

A daemon thread that is inside a request while the interpreter goes away would hold it up, or print what it thinks of
that. So at exit each wait of this process raises `Interrupted`, and what it waited for is cancelled.
"""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from fsspec.asyn import get_loop

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
"""Called on the loop: a coroutine that was made and never awaited would complain."""
LOOK_SECONDS = 0.25
"""Between two looks at what no one tells."""
SECONDS_TO_END = 2.0
"""How long the exit waits for what it cancelled."""


class Interrupted(Exception):
    """The one who waits is to stop, or the program is ending; no fault of the store."""


class _Thread(threading.local):
    is_over: Callable[[], bool] | None = None


_thread = _Thread()


@contextmanager
def until(is_over: Callable[[], bool]) -> Iterator[None]:
    """Inside, the waits of this thread are interrupted soon after `is_over`."""
    before, _thread.is_over = _thread.is_over, is_over
    try:
        yield
    finally:
        _thread.is_over = before


class Waits:
    """Those of one process."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        """Those of `_running`, for the thread of the loop alone: a future is over before its task is."""

    def result_of(self, work: Work[T], seconds: float) -> T:
        """What `work` comes to on fsspec's loop.

        Raises:
            TimeoutError: it took longer than `seconds`, and was cancelled.
            Interrupted: this thread is to stop.
        """
        self._refuse()
        future = asyncio.run_coroutine_threadsafe(self._task(work, seconds), get_loop())
        with self._lock:
            self._running.add(future)
        try:
            self._refuse()  # between the two `end` may have missed this one
            while not wait([future], LOOK_SECONDS if _thread.is_over else None).done:
                self._refuse()
            return future.result()
        except CancelledError:
            self._refuse()
            raise
        finally:
            future.cancel()  # where this thread stops waiting, for Ctrl-C perhaps
            with self._lock:
                self._running.discard(future)
            del future  # its error knows this frame, and all that called it

    async def _task(self, work: Work[T], seconds: float) -> T:
        self._note(asyncio.current_task())
        async with asyncio.timeout(seconds):
            return await work()

    def _note(self, task: asyncio.Task[Any] | None) -> None:
        assert task is not None, "this runs on the loop"
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio prints the one for which nobody waits any more

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Interrupted: this thread is to stop.
        """
        end = time.monotonic() + seconds
        while True:
            self._refuse()
            left = end - time.monotonic()
            if left <= 0:
                return
            self._ending.wait(min(left, LOOK_SECONDS) if _thread.is_over else left)

    def _refuse(self) -> None:
        if self._ending.is_set() or (_thread.is_over is not None and _thread.is_over()):
            raise Interrupted

    def end(self) -> None:
        """Interrupt all that wait, now and later."""
        if self._owner != os.getpid():
            return  # a fork has the list of its parent's, but neither their loop nor their threads
        self._ending.set()
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()
        if running:
            with suppress(TimeoutError):  # a request that does not let itself be cancelled goes with the process
                asyncio.run_coroutine_threadsafe(self._ended(), get_loop()).result(SECONDS_TO_END)

    async def _ended(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks))


_of_process: dict[int, Waits] = {}


def _waits() -> Waits:
    """Those of this process: a lock that another thread held at the fork would never be free in the new one."""
    found = _of_process.get(os.getpid())
    if found is None:
        mine = Waits()
        found = _of_process.setdefault(os.getpid(), mine)
        if found is mine:
            # At the first wait and not on import: what is registered last runs first, before all who join threads.
            atexit.register(mine.end)
    return found


def result_of(work: Work[T], seconds: float) -> T:
    """As `Waits.result_of`, in whatever process."""
    return _waits().result_of(work, seconds)


def pause(seconds: float) -> None:
    """As `Waits.pause`, in whatever process."""
    _waits().pause(seconds)
