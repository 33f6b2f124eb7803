"""Work in several processes whose results come in the order of the work, however long each piece takes."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar, runtime_checkable

from mmclip.errors import MachineError

Item = TypeVar("Item")
AHEAD = 3
"""Pieces in flight for each process: enough that none waits for a slow one, few enough to fit in memory."""


@runtime_checkable
class Track(Protocol):
    """Hands on each piece of `work`, with a progress bar where there is a screen."""

    def __call__(self, work: Iterable[Item], total: int, name: str) -> Iterator[Item]: ...


def quiet(work: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """No bar."""
    yield from work


def worker_count(asked: int | None) -> int:
    """Processes to use: as many as asked for, or one for each core."""
    return asked or min(32, len(os.sched_getaffinity(0)))


def in_order(work: Callable[[Any], Any], pieces: Iterable[Any], workers: int) -> Iterator[Any]:
    """The results of `work` on each piece, in the order of `pieces`; with one worker in this process.

    `work` itself travels to each process once, so it may carry tables; a piece should be small.

    Raises:
        MachineError: a process was killed.
    """
    if workers <= 1:
        yield from map(work, pieces)
        return
    # Not by fork: the parent may have threads (a progress bar, Arrow), whose locks a fork would copy as they are.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (work,))
    waiting: deque[Future[Any]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(_run, piece))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise MachineError(
            f"one of {workers} worker processes was killed, perhaps for its memory; run the same again with fewer "
            "--workers: finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any] | None = None


def _start(work: Callable[[Any], Any]) -> None:
    """An interrupt is the parent's affair: it cancels what waits, and a process ends its piece."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = work


def _run(piece: Any) -> Any:
    assert _work is not None
    return _work(piece)
