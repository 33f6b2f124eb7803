"""Tries again what may have passed: exponential backoff with full jitter, within a budget of time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from mmclip_data.stores.faults import ForbiddenError, PassingError, UnreachableError
from mmclip_data.stores.waits import pause

T = TypeVar("T")

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 20.0
FIRST_CONTACT_SECONDS = 4.0
"""A host that has never answered is given up on so soon: its name is wrong far more often than it is just starting."""


@dataclass
class Retry:
    """One budget of time for each call; bytes that come (`progress`) begin it anew.

    The waits are drawn from a generator of their own, so that the order of samples knows nothing of them. `draws`,
    `sleep` and `clock` are given by tests.
    """

    seconds: float
    draws: Random = field(default_factory=Random)
    sleep: Callable[[float], None] = pause
    clock: Callable[[], float] = time.monotonic

    def run(
        self,
        attempt: Callable[[], T],
        refresh: Callable[[], None] = lambda: None,
        progress: Callable[[], int] = lambda: 0,
        contacted: Callable[[], bool] = lambda: True,
    ) -> T:
        """What `attempt` returns at its first success. `refresh` gets fresh credentials; `progress` counts what came so far.

        Raises:
            StoreError: of a kind that does not pass, or that did not pass in time.
        """
        began, failures, refreshed, before = self.clock(), 0, False, progress()
        while True:
            try:
                return attempt()
            except ForbiddenError:
                if refreshed:
                    raise
                refreshed = True
                refresh()
            except PassingError as error:
                if progress() > before:
                    began, failures, before = self.clock(), 0, progress()
                failures += 1
                fresh = isinstance(error, UnreachableError) and not contacted()
                budget = min(self.seconds, FIRST_CONTACT_SECONDS) if fresh else self.seconds
                wait = self.draws.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 20)))
                if self.clock() - began + wait > budget:
                    tried = f"{failures} tries in {self.clock() - began:.0f} s" if failures > 1 else "1 try"
                    error.__traceback__ = None  # it would hold all that called this, for as long as the other is kept
                    raise type(error)(f"{error}; given up after {tried}") from None
                self.sleep(wait)
