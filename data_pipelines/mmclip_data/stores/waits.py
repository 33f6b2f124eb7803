"""Waiting for a store, in a way that the end of the program cuts short.

A daemon thread that is inside a request while the interpreter goes away would hold it up, or print what it thinks of
that. So at exit each wait of this process raises `Interrupted`, and what it waited for is cancelled.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from fsspec.asyn import get_loop

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
"""Called on the loop: a coroutine that was made and never awaited would complain."""
SECONDS_TO_END = 2.0
"""How long the exit waits for what it cancelled."""


class Interrupted(Exception):
    """The program is ending; no fault of the store."""


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
            Interrupted: the program is ending.
        """
        if self._ending.is_set():
            raise Interrupted
        future = asyncio.run_coroutine_threadsafe(self._task(work, seconds), get_loop())
        with self._lock:
            self._running.add(future)
        try:
            if self._ending.is_set():  # between the two looks `end` may have missed this one
                raise Interrupted
            return future.result()
        except CancelledError as error:
            if self._ending.is_set():
                raise Interrupted from error
            raise
        finally:
            future.cancel()  # where this thread stops waiting: Ctrl-C
            with self._lock:
                self._running.discard(future)

    async def _task(self, work: Work[T], seconds: float) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.wait_for(work(), seconds)

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Interrupted: the program is ending.
        """
        if self._ending.wait(seconds):
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
