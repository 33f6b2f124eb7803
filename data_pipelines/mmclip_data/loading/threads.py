"""Batches from threads: reading, decoding and resizing let the interpreter go, and no pixel crosses a process.

The threads share the samples of each batch, so the first one is there soon and few are in memory. A thread that finishes
the last sample of a batch completes it.
"""

import atexit
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, get_ident
from typing import NamedTuple

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip_data.loading.assemble import Filler, OpenBatch
from mmclip_data.loading.watchdog import Say, name_places, wait_for

SAMPLES_A_JOB = 8
"""Few, so that the threads end a batch together; each job costs some 20 microseconds."""
SECONDS_TO_STOP = 5.0
_Busy = dict[int, tuple[int, float]]
"""The position that each thread works on, and since when."""
_running: "weakref.WeakSet[ThreadedBatches]" = weakref.WeakSet()
_threads: "weakref.WeakSet[Thread]" = weakref.WeakSet()


@dataclass
class _Pending:
    """A batch that is being filled, by several threads."""

    batch: OpenBatch
    left: int
    done: Future[ImageTextBatch] = field(default_factory=Future)
    lock: Lock = field(default_factory=Lock)

    def finish(self, count: int) -> bool:
        """Whether these `count` samples were the last."""
        with self.lock:
            self.left -= count
            return self.left == 0

    def fail(self, error: BaseException) -> None:
        with self.lock:
            if not self.done.done():
                self.done.set_exception(error)


class _Job(NamedTuple):
    pending: _Pending
    first: int
    end: int


class ThreadedBatches(Iterator[ImageTextBatch]):
    """The batches from `start` on, `ahead` of them ready or in work beside the one that is handed out.

    An error in a thread is raised by the `next` that would have returned its batch.
    """

    def __init__(
        self, filler: Filler, start: DataPosition, threads: int, ahead: int, timeout_seconds: int, say: Say
    ) -> None:
        self.filler = filler
        self.say = say
        self.timeout_seconds = timeout_seconds
        self._next_start = start.samples_consumed
        self._pending: deque[_Pending] = deque()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._busy: _Busy = {}
        # The threads know the queue, not this object: when it is dropped, `__del__` ends them.
        work = (self._jobs, self._busy, filler)
        self._threads = [Thread(target=_serve, args=work, daemon=True, name=f"loader-{i}") for i in range(threads)]
        for thread in self._threads:
            thread.start()
        _running.add(self)
        _threads.update(self._threads)
        for _ in range(ahead):
            self._submit()

    def __next__(self) -> ImageTextBatch:
        self._submit()
        done = self._pending.popleft().done
        rank = self.filler.assemble.layout.rank
        try:
            return wait_for(partial(_finished, done), self.timeout_seconds, rank, self._whereabouts, self.say).result()
        finally:
            del done  # its error knows this frame: they would keep the threads, after the one who reads is gone

    def _submit(self) -> None:
        start, size = self._next_start, self.filler.assemble.layout.global_batch_size
        self._next_start = start + size
        positions = self.filler.prepare.planned.positions(start)
        count = len(positions)
        pending = _Pending(self.filler.begin(start, positions), count)
        self._pending.append(pending)
        size = max(1, min(SAMPLES_A_JOB, count // len(self._threads)))
        for first in range(0, count, size):
            self._jobs.put(_Job(pending, first, min(first + size, count)))

    def _whereabouts(self) -> str:
        now, numbers = time.monotonic(), {thread.ident: number for number, thread in enumerate(self._threads)}
        busy = [
            (numbers.get(ident, 0), position, now - since) for ident, (position, since) in self._busy.copy().items()
        ]
        return name_places(busy, self.filler.prepare.planned.name)

    def close(self) -> None:
        """Tell the threads to end after the sample that they are at."""
        while not self._jobs.empty():
            self._jobs.get()
        for _ in self._threads:
            self._jobs.put(None)
        for pending in self._pending:
            pending.done.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_threads"):
            self.close()


def _finished(done: Future[ImageTextBatch], seconds: float) -> Future[ImageTextBatch]:
    if not wait([done], seconds).done:
        raise TimeoutError
    return done


def _serve(jobs: "SimpleQueue[_Job | None]", busy: _Busy, filler: Filler) -> None:
    while _fill(jobs.get(), busy, filler):
        busy.pop(get_ident(), None)


def _fill(job: _Job | None, busy: _Busy, filler: Filler) -> bool:
    # A function of its own, so that an idle thread holds no batch in its variables.
    if job is None:
        return False
    pending = job.pending
    try:
        for row in range(job.first, job.end):
            if pending.done.done():
                return True
            busy[get_ident()] = pending.batch.positions[row], time.monotonic()
            filler.fill(pending.batch, row)
        if pending.finish(job.end - job.first):
            batch = filler.assemble.finish(pending.batch)
            if pending.done.set_running_or_notify_cancel():
                pending.done.set_result(batch)
    except BaseException as error:  # whatever it is, it belongs to the one who waits for the batch
        pending.fail(error)
    finally:
        del pending, job
    return True


@atexit.register
def _close_all() -> None:
    """A thread that wakes up inside a library while the interpreter goes away would abort the process."""
    for batches in list(_running):
        batches.close()
    deadline = time.monotonic() + SECONDS_TO_STOP
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
