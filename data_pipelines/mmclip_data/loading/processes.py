"""Batches from processes: for maps that are heavy on Python, and for more cores than one interpreter can feed.

Every process fills every w-th batch, in memory that it shares with the training process: what travels is the number of a
slot, the tokens and the ids. The memory is anonymous, not a file under /dev/shm, which containers keep small.
"""

import mmap
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmclip.batch import ImageTextBatch
from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.slots import Shape, Views, leased
from mmclip_data.loading.watchdog import POLL_SECONDS as DEATH_POLL_SECONDS
from mmclip_data.loading.watchdog import Say, Whereabouts, WorkerDied, name_places, wait_for
from mmclip_data.loading.worker_signals import held_back, obey_parent

KEPT = 2
"""Batches of each process that the consumer may keep; of more it gets copies, so that no process waits for him."""
POLL_SECONDS = 0.001
FREE, IN_WORKER, IN_CONSUMER = 0, 1, 2

_rings: "weakref.WeakValueDictionary[int, Ring]" = weakref.WeakValueDictionary()


class Ring:
    """Slots that the loader processes and the training process share; a process has its own, so no lock is needed."""

    def __init__(self, workers: int, prefetch: int, shapes: Sequence[Shape]) -> None:
        slots = prefetch + 1 + KEPT
        self._memory = [_shared((workers, slots, *shape)) for shape in shapes]
        self._used = _shared((workers, slots))
        self._owner = os.getpid()
        self.taken = 0
        """In a loader process: the slot that it fills."""
        _rings[id(self)] = self

    def take(self) -> Views:
        """The next free slot of this loader process."""
        info = get_worker_info()
        assert info is not None, "a ring's slots are filled by loader processes"
        used = self._used[info.id]
        while used.all():
            if os.getppid() != self._owner:
                sys.exit(1)  # the training process is gone, and nobody will free a slot
            time.sleep(POLL_SECONDS)
        self.taken = int(used.argmin())
        used[self.taken] = IN_WORKER
        return tuple(torch.from_numpy(part[info.id, self.taken]).permute(0, 3, 1, 2) for part in self._memory)

    def receive(self, worker: int, slot: int) -> Views:
        """The views in a slot, which is free again when nothing refers to them; copies if much is kept already."""
        parts = [part[worker, slot] for part in self._memory]
        if (self._used[worker] == IN_CONSUMER).sum() >= KEPT:
            views = tuple(torch.from_numpy(part.copy()).permute(0, 3, 1, 2) for part in parts)
            self.release(worker, slot)
            return views
        self._used[worker, slot] = IN_CONSUMER
        left = iter(range(len(parts) - 1, -1, -1))

        def give_back() -> None:
            if next(left) == 0:  # the last of the views
                self.release(worker, slot)

        return tuple(leased(part, give_back) for part in parts)

    def release(self, worker: int, slot: int) -> None:
        """Let the process fill the slot again."""
        self._used[worker, slot] = FREE

    def pinned(self, worker: int, slot: int) -> Views:
        """Page-locked copies of a slot, which is free at once."""
        views = tuple(torch.from_numpy(part[worker, slot]).permute(0, 3, 1, 2).pin_memory() for part in self._memory)
        self.release(worker, slot)
        return views


@dataclass
class Filled:
    """A batch on its way: everything but the pixels, and where those are."""

    ring: int
    worker: int
    slot: int
    rest: dict[str, Any]
    views: Views | None = None

    def pin_memory(self) -> "Filled":
        """Called by torch's loader in a thread of the training process, where CUDA is in use."""
        self.views = _rings[self.ring].pinned(self.worker, self.slot)
        names = ("tokens", "keys", "image_features", "text_features", "classes")
        self.rest |= {name: self.rest[name].pin_memory() for name in names if self.rest[name] is not None}
        return self

    def batch(self) -> ImageTextBatch:
        """The batch, in the training process."""
        views = self.views or _rings[self.ring].receive(self.worker, self.slot)
        return ImageTextBatch(images=views[0], views=views[1:], **self.rest)


class Ahead(NamedTuple):
    """How much is loaded ahead."""

    workers: int
    batches: int
    """Of each process."""


@dataclass(frozen=True)
class Watch:
    """Who waits for the processes, for how long, and what they note of their work."""

    rank: int
    timeout_seconds: int
    whereabouts: Whereabouts
    name: Callable[[int], str]
    """The identity of the sample at a position."""
    say: Say

    def places(self) -> str:
        """What each process is at."""
        return name_places(self.whereabouts.now(), self.name)


class _Carrying(IterableDataset):
    """The batches inside a loader process, which hands an error over as it is: torch would wrap it in its traceback."""

    def __init__(self, batches: Iterable[ImageTextBatch], ring: Ring) -> None:
        self.batches = batches
        self.ring = ring
        self.parent = os.getpid()
        self.parent_thread_lasts = threading.current_thread() is threading.main_thread()

    def __iter__(self) -> Iterator[Filled | Exception]:
        info = get_worker_info()
        assert info is not None, "loader processes alone iterate here"
        obey_parent(self.parent, self.parent_thread_lasts)
        names = ("tokens", "keys", "ids", "position", "replaced", "image_features", "text_features", "classes")
        try:
            for batch in self.batches:
                yield Filled(id(self.ring), info.id, self.ring.taken, {name: getattr(batch, name) for name in names})
        except (UserError, BadSampleError, OSError) as error:
            yield error


def batches_from_processes(
    batches: Iterable[ImageTextBatch], ring: Ring, ahead: Ahead, watch: Watch
) -> Iterator[ImageTextBatch]:
    """The batches in order; an error of a loader process is raised here, and its death is told with what to do.

    Raises:
        WorkerDied: a loader process is gone.
        MachineError: none hands anything over any more.
    """
    loader = DataLoader(
        _Carrying(batches, ring),
        batch_size=None,
        num_workers=ahead.workers,
        prefetch_factor=ahead.batches,
        pin_memory=torch.cuda.is_available(),
        timeout=DEATH_POLL_SECONDS,
        multiprocessing_context="fork",  # the ring is inherited, not sent
    )
    with held_back():
        filled = _start(loader)

    def attempt(seconds: float) -> Filled | Exception:
        try:
            return next(filled)
        except RuntimeError as error:
            if "timed out" in str(error):  # torch's loader goes on waiting when it is asked again
                raise TimeoutError from error
            if "exited unexpectedly" not in str(error):
                raise
            raise WorkerDied(
                f"a loader process failed: {str(error).splitlines()[0]}; it was killed, mostly for want of memory: lower "
                f"data.workers or data.prefetch_batches; data.workers = 0 loads in the training process and shows the "
                f"cause; {watch.places()}"
            ) from error

    while True:
        item = wait_for(attempt, watch.timeout_seconds, watch.rank, watch.places, watch.say)
        if isinstance(item, Exception):
            try:
                raise item
            finally:
                del item  # it knows this frame, which would keep the processes
        yield item.batch()
        del item


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's processes, started.

    torch would raise the death of one wherever the training process happens to be, in the middle of a step too; the one
    who waits for it finds out soon enough, and can do something about it.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _shared(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    size = int(np.prod(shape))  # 0 where the batch carries features in place of pixels
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8)[:size].reshape(shape)
