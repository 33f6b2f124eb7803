"""What a training process is at: noted by its main thread at no cost, read by those who watch it."""

import time
from collections.abc import Callable, Iterator
from typing import Literal

from mmclip.batch import ImageTextBatch

Phase = Literal["starting", "waiting for data", "in a step", "evaluating", "saving", "finishing"]
STEPPING: frozenset[Phase] = frozenset({"waiting for data", "in a step"})
"""Phases that end soon in a run that is well; the others may be long."""


class Activity:
    """The phase, since when, and the steps done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.phase: Phase = "starting"
        self.step = 0
        """Steps of the run that are done."""
        self.steps_here = 0
        """Those among them that this process did."""
        self.since = clock()
        self.longest_step_seconds = 0.0

    def begin(self, phase: Phase, step: int | None = None) -> None:
        """From now on `phase`; `step` steps of the run are done, where that has changed."""
        now = self._clock()
        if self.phase == "in a step" and phase != "in a step":
            self.longest_step_seconds = max(self.longest_step_seconds, now - self.since)
            self.steps_here += 1
        self.phase, self.since = phase, now
        if step is not None:
            self.step = step

    def seconds(self) -> float:
        """How long this phase has lasted."""
        return self._clock() - self.since

    def words(self) -> str:
        """For a person."""
        return in_words(self.phase, self.step)

    def noting(self, batches: Iterator[ImageTextBatch]) -> Iterator[ImageTextBatch]:
        """The same batches; whoever asks for one waits for data, and then is in a step."""
        while True:
            self.begin("waiting for data")
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.begin("in a step")
            yield batch
            del batch


def in_words(phase: str, step: int) -> str:
    """For a person: the step that is under way, or the last one that was done."""
    if phase == "starting":
        return phase
    return f"in step {step + 1:,}" if phase == "in a step" else f"{phase} after step {step:,}"
