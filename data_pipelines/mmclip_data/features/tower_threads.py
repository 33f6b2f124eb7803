"""Jobs of a tower in a fixed order, on a CPU several at once, each by one thread alone.

On CPUs the last digits of a matrix product differ with the number of threads that share it, and a launcher changes that
number. One thread a chunk gives the same bits under all of them, and takes three quarters of the time (ViT-B/32, 2 cores).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")
Job = Callable[[], T]


def tower_threads(device: torch.device, together: int | None = None) -> int:
    """How many chunks a device encodes at once: a CPU one a thread that torch may use, at most `together`; others one."""
    if device.type != "cpu":
        return 1
    threads = torch.get_num_threads()
    return max(1, threads if together is None else min(threads, together))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Within, torch uses one thread on a CPU: a sum over several has other last digits than one over another number."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(jobs: Iterable[Job[T]], threads: int, ahead: int) -> Iterator[T]:
    """Yield what the jobs return, in their order; `threads` of them run at once, and `ahead` more have been taken.

    Within each job torch uses one thread; afterwards it has as many as before.
    """
    before, waiting = torch.get_num_threads(), deque[Future[T]]()
    begin = partial(torch.set_num_threads, 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tower", initializer=begin)
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) >= threads + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
