"""The edge between two steps, where a run stops, and where it saves by the clock: on all ranks at the same step."""

import time
from collections.abc import Callable
from typing import NoReturn

from mmclip.errors import PreemptedError
from mmclip.training.agreement import Agreement
from mmclip_launch.run.stopping.stop_signals import StopRequest


class Edge:
    """What is to happen at the edge that the run is at; every rank makes each call, at the same steps."""

    def __init__(
        self,
        stop: StopRequest,
        agreement: Agreement,
        save_every_minutes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`save_every_minutes` is None on all ranks but the first, whose clock counts."""
        self.stop = stop
        self.activity = stop.activity
        self.stops = False
        """Whether the run ends here."""
        self.saves = False
        """Whether it is time to save."""
        self.agreement = agreement
        self._every_seconds = None if save_every_minutes is None else 60 * save_every_minutes
        self._clock = clock
        self._saved_at = clock()

    def meet(self, step: int) -> None:
        """All ranks are at the end of a step."""
        self.activity.step = step
        self.stop.answer = "at the edge"  # from now on there is something to save
        decided = self.agreement.at_edge(self.stop.reason, self._is_time())
        self.stop.take_reason(decided.stop)
        self.stops, self.saves = decided.stop > 0, decided.save

    def cut_short(self, is_cut_short: bool) -> bool:
        """Whether the first rank has broken off an evaluation; if so, the run ends here."""
        self.stops = self.agreement.any(is_cut_short) or self.stops
        return self.stops

    def saved(self) -> None:
        """A save has begun: the next one is due a whole interval later."""
        self._saved_at = self._clock()

    def is_on_disk(self) -> None:
        """This rank's part of the last checkpoint is; a run that stops here can no longer be hurried."""
        if self.stops:
            self.stop.answer = "not at all"

    def end(self, step: int, total_steps: int) -> NoReturn:
        """End the run, of which everything is on disk, on all ranks together.

        Raises:
            PreemptedError: always.
        """
        self.agreement.finish()
        self.stop.answer = "not at all"
        raise PreemptedError(
            f"{self.stop.why}: stopped at step {step:,} of {total_steps:,}, whose checkpoint is on disk; `--resume` continues "
            "there"
        )

    def finish(self) -> None:
        """After the last step.

        Raises:
            PreemptedError: a process was told to end during it.
        """
        self.stop.take_reason(self.agreement.finish().stop)
        self.activity.begin("finishing")
        self.stop.end_at_once()

    def _is_time(self) -> bool:
        due = self._every_seconds is not None and self._clock() - self._saved_at >= self._every_seconds
        if due:
            self._saved_at = self._clock()  # asked for once
        return due
