"""The training loop. Nothing else counts steps."""

import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.training.progress import Progress
from mmclip.training.step import TrainStep


@runtime_checkable
class Hooks(Protocol):
    """What a run does around its steps; each is called on every rank, at the same steps."""

    def record(self, progress: Progress, batch: ImageTextBatch, report: StepReport, data_seconds: float) -> None:
        """Note one finished step."""
        ...

    def stops(self, progress: Progress) -> bool | None:
        """Whether the run is told to end here, with a checkpoint but without an evaluation."""
        ...

    def owes(self, progress: Progress) -> bool | None:
        """Whether the evaluation of `progress` is still to be made, with which this process begins."""
        ...

    def evaluate(self, progress: Progress) -> bool | None:
        """Evaluate if it is time; called before the first step too. True ends the run."""
        ...

    def checkpoint(self, progress: Progress) -> None:
        """Save if it is time; called before the first step too."""
        ...


def fit(
    step: TrainStep,
    batches: Iterator[ImageTextBatch],
    progress: Progress,
    total_steps: int,
    device: torch.device,
    hooks: Hooks,
) -> Progress:
    """Run optimizer steps from `progress` until `total_steps`, or until an evaluation ends the run.

    Evaluation comes before the checkpoint of the same step: a run that resumes there has already been evaluated there.
    """
    ends = False
    if progress.step == 0 or hooks.owes(
        progress
    ):  # a run that was told to end has left its evaluation to its successor
        ends = hooks.evaluate(progress)
        hooks.checkpoint(progress)
    while progress.step < total_steps and not ends:
        waiting_since = time.perf_counter()
        batch = next(batches)
        data_seconds = time.perf_counter() - waiting_since
        report = step(step.measured(batch).to(device), progress)
        progress = progress.after(step.rule.global_batch_size)
        assert batch.position.samples_consumed == progress.samples_seen, "the loader and the loop count alike"
        hooks.record(progress, batch, report, data_seconds)
        ends = hooks.stops(progress) or hooks.evaluate(progress)
        hooks.checkpoint(progress)
    return progress
