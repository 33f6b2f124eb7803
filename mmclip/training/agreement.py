"""What all ranks decide together at the edge between two steps, without waiting for a device: to stop, and to save now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=14)
"""A peer that is gone is noticed by its closed connection, one that hangs by the watchdog; a save may take its time."""
SLOW_STEP_SECONDS = 1.0
"""From steps of this length on, the answer is waited for at the same edge: a message costs a millisecond, and a stop that comes
one step later may come after the scheduler's patience."""


@dataclass(frozen=True)
class Decision:
    """The same on every rank, at the same step."""

    stop: int = 0
    """Why, as a number: the greatest that any rank gave; 0 for no reason to stop."""
    save: bool = False


class Agreement:
    """Votes of all ranks, over a group of their own on CPUs; every rank makes each call, at the same steps.

    The votes of an edge travel while the next step computes and count at the edge after it. One process waits for nobody:
    its vote counts at once.
    """

    def __init__(self, world_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if world_size > 1 else None
        self._clock = clock
        self._edge_at: float | None = None
        self._votes: Tensor | None = None
        self._work: Any = None
        self._is_slow = False

    def at_edge(self, stop: int, save: bool) -> Decision:
        """Hand in what this rank wants; what any rank wanted at the edge before (at this one, where steps are slow)."""
        if self._group is None:
            return Decision(stop, save)
        now = self._clock()
        seconds = 0.0 if self._edge_at is None else now - self._edge_at
        self._edge_at = now
        decided = self._counted()
        self._votes = torch.tensor([stop, save, seconds], dtype=torch.float64)
        self._work = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        if not self._is_slow:
            return decided
        late = self._counted()
        return Decision(max(decided.stop, late.stop), decided.save or late.save)

    def finish(self) -> Decision:
        """The votes that are still on their way, after the last edge."""
        return self._counted()

    def any(self, vote: bool) -> bool:
        """Whether any rank says so; every rank waits for the last one."""
        if self._group is None:
            return vote
        votes = torch.tensor([float(vote)])
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._group)
        return bool(votes.item())

    def _counted(self) -> Decision:
        if self._work is None:
            return Decision()
        assert self._votes is not None, "votes are there as long as they travel"
        self._work.wait()
        stop, save, seconds = self._votes.tolist()
        self._votes = self._work = None
        self._is_slow = seconds >= SLOW_STEP_SECONDS  # of the slowest rank, so that all change over together
        return Decision(int(stop), bool(save))
