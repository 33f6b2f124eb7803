"""Keeps few files open, however many shards a run has: a process may open a thousand, a data set has a million."""

from collections import deque
from typing import Protocol, runtime_checkable
from weakref import ref

MAX_OPEN = 256


@runtime_checkable
class Holder(Protocol):
    """Something that holds a descriptor and can get it again."""

    def release(self) -> None:
        """Forget the descriptor; a read under way in another thread keeps its own reference to it."""
        ...


class OpenFiles:
    """Whoever opened first is asked first to let go. A deque's ends are safe between threads, so no lock is held at a fork."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self.limit = limit
        self._holders: deque[ref[Holder]] = deque()

    def opened(self, holder: Holder) -> None:
        """Note that `holder` has just opened a file; the oldest beyond the limit are released."""
        self._holders.append(ref(holder))
        while len(self._holders) > self.limit:
            oldest = self._holders.popleft()()
            if oldest is not None and oldest is not holder:
                oldest.release()
