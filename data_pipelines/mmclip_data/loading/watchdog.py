"""Who is at what: a loader that stops answering is named, sample by sample, and one that died is started again.

Each loader process notes the position that it works on in memory it shares with the training process, so what it was at
is known even when it cannot say so any more.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from torch.utils.data import get_worker_info

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import MachineError

T = TypeVar("T")
Say = Callable[[str], None]
Batches = Iterator[ImageTextBatch]

NAMED_SECONDS = 30.0
"""Waiting that long for a batch is told at once, with who is at what; only `data.timeout_seconds` ends the run."""
POLL_SECONDS = 1.0
"""How soon the death of a loader process is noticed by one who waits for it."""


class WorkerDied(MachineError):
    """A loader process is gone: killed, mostly for want of memory."""


class Whereabouts:
    """The position that each loader process works on, and since when; written by the processes, read by their parent."""

    def __init__(self, workers: int) -> None:
        self._notes = np.frombuffer(mmap.mmap(-1, workers * 16), dtype=np.float64).reshape(workers, 2)

    def note(self, position: int) -> None:
        """In a loader process: this is what it works on from now on; elsewhere nothing is noted."""
        info = get_worker_info()
        if info is not None:
            self._notes[info.id] = position + 1, time.monotonic()

    def now(self) -> list[tuple[int, int, float]]:
        """Number of each process that has begun, its position, and for how many seconds it has been at it."""
        seconds = time.monotonic()
        return [
            (worker, int(place) - 1, seconds - since)
            for worker, (place, since) in enumerate(self._notes.tolist())
            if place
        ]


def name_places(now: list[tuple[int, int, float]], name: Callable[[int], str]) -> str:
    """In words, those who have been at it longest first."""
    longest = sorted(now, key=lambda entry: -entry[2])
    told = [
        f"worker {worker} has been at {name(position)} for {seconds:.0f} s" for worker, position, seconds in longest
    ]
    return ", ".join(told[:8]) or "no worker has begun a sample"


def wait_for(attempt: Callable[[float], T], timeout_seconds: int, rank: int, places: Callable[[], str], say: Say) -> T:
    """The result of `attempt`, which is given so many seconds and raises TimeoutError when they are over.

    Raises:
        MachineError: `timeout_seconds` (0: never) are over; the message names what every worker is at.
    """
    waited, is_told = 0.0, False
    told_after = min(NAMED_SECONDS, timeout_seconds / 2) if timeout_seconds else NAMED_SECONDS
    while True:
        begun = time.monotonic()
        try:
            return attempt(POLL_SECONDS)
        except TimeoutError as error:
            # Not the clock's time: while this process was itself stopped, the loader had no chance to answer.
            waited += min(time.monotonic() - begun, 2 * POLL_SECONDS)
            if timeout_seconds and waited >= timeout_seconds:
                raise MachineError(
                    f"rank {rank}: no batch within data.timeout_seconds = {timeout_seconds}; {places()}: the disk or a map "
                    "of the run hangs there, or the timeout is too short for a batch"
                ) from error
        if waited >= told_after and not is_told:
            is_told = True
            end = f"; the run ends after {timeout_seconds} s" if timeout_seconds else ""
            say(f"rank {rank}: no batch for {waited:.0f} s; {places()}{end}")


def restarting(
    make: Callable[[DataPosition], Batches], start: DataPosition, restarts: int, rank: int, say: Say
) -> Batches:
    """The batches of `make` from `start` on; when a process dies, those of a new `make` from where they broke off.

    The plan says what comes next, so the run does not differ from one in which nobody died.

    Raises:
        WorkerDied: more than `restarts` times.
    """
    position, left, batches = start, restarts, make(start)
    while True:
        try:
            batch = next(batches)
        except WorkerDied as error:
            if not left:
                raise
            left -= 1
            say(
                f"rank {rank} (process {os.getpid()}): {error}; starting its loader processes again at sample "
                f"{position.samples_consumed:,} ({left} more times at most)"
            )
            del batches
            batches = make(position)
            continue
        position = batch.position
        yield batch
        del batch
