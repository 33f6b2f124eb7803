"""How long a run goes on while its disk or its store does not take what it writes."""

import time
from collections.abc import Callable

from mmclip.errors import MachineError


class Patience:
    """Says that something fails and that it works again, and gives up when it has failed for too long."""

    def __init__(self, minutes: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 60 * minutes
        self._say = say
        self._clock = clock
        self._since: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def failed(self, what: str, message: str) -> None:
        """Note a try that failed.

        Raises:
            MachineError: it has failed since before the budget.
        """
        now = self._clock()
        since = self._since.setdefault(what, now)
        self._tries[what] = self._tries.get(what, 0) + 1
        left = self.seconds - (now - since)
        if left <= 0:
            tries = self._tries[what]
            over = f" ({tries} tries in {(now - since) / 60:.1f} minutes)" if tries > 1 else ""
            raise MachineError(f"{message}{over}")
        self._say(f"{message}; the run goes on and tries again, for {left / 60:.0f} more minutes at most")

    def fine(self, what: str) -> None:
        """Note that it works."""
        if what in self._since:
            seconds = self._clock() - self._since.pop(what)
            self._say(f"{what}: written again, after {self._tries.pop(what)} failed tries in {seconds:.0f} s")

    def pause_seconds(self, what: str) -> float:
        """How long to wait before the next try: a second at first, twice as long each time, at most a minute."""
        return min(60.0, 2.0 ** (self._tries.get(what, 1) - 1))
