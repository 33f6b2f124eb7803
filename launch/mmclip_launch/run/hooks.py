"""What surrounds the steps of a run: metrics, ledger, quarantine, progress, evaluation and checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import Accelerator

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.training.agreement import Agreement
from mmclip.training.progress import Progress
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.choosing import Choosing
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.step_log import Say, Show, StepLog
from mmclip_launch.run.records.trackers import METRICS, MetricWriter, has_scores
from mmclip_launch.run.saving import Saving
from mmclip_launch.run.stopping.activity import Activity
from mmclip_launch.run.stopping.edge import Edge
from mmclip_launch.run.stopping.stop_signals import StopRequest

Evaluate = Callable[[Progress, str | None], Mapping[str, float] | None]
"""Of the weights at a step, on all sets or on the one that is named; None where it was broken off."""


class RunHooks:
    """The hooks of `mmclip.training.loop.fit` for a run with a folder: what is due after which step."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        run: Run,
        writer: MetricWriter,
        evaluate: Evaluate,
        show: Show,
        say_alarm: Say,
        journal: Journal,
        mirror: Mirror | None = None,
        edge: Edge | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.writer = writer
        self.total_steps = run.total_steps
        self.run_evaluation = evaluate
        self.edge = edge or Edge(StopRequest(Activity()), Agreement(accelerator.num_processes))
        self.folder = Path(config.output)
        tenth = max(1, run.total_steps // 10)
        self.checkpoint_every = config.checkpoint.every_steps or tenth
        self.choosing = Choosing(config.early_stopping, self.folder, accelerator, journal.append)
        # What decides when the run ends must be asked now and then.
        self.evaluate_every = config.evaluation.every_steps or (tenth if self.choosing.set_name else None)
        self.log = StepLog(config, accelerator, run.total_steps, writer, show, say_alarm, journal)
        self.saving = Saving(config, accelerator, run, self.choosing, self.edge, journal, mirror, say_alarm)
        self.after_step: Callable[[], None] = lambda: None
        """Called once after each step, before anything is written."""

    def record(self, progress: Progress, batch: ImageTextBatch, report: StepReport, data_seconds: float) -> None:
        """Note a step; write the noted ones when it is time."""
        self.after_step()
        self.log.record(progress, batch, report, data_seconds)

    def stops(self, progress: Progress) -> bool:
        """Whether a signal to any rank ends the run here."""
        self.edge.meet(progress.step)
        return self.edge.stops

    def owes(self, progress: Progress) -> bool:
        """Whether the run was told to end before the evaluation of this step, which it had saved."""
        return self._evaluates(progress) and self.edge.agreement.any(
            self.accelerator.is_main_process and not has_scores(self.folder / METRICS, progress.step)
        )

    def evaluate(self, progress: Progress) -> bool:
        """Evaluate before the first step and every `evaluation.every_steps`; whether early stopping ends the run.

        The end is left to the finished checkpoint, but for the set that decides which checkpoint that is.
        """
        if not self._evaluates(progress):
            return False
        self.log.flush()
        self.edge.activity.begin("evaluating")
        last = progress.step == self.total_steps
        figures = self.run_evaluation(
            progress, self.choosing.set_name if last and progress.step else None
        )  # each rank encodes its share
        if self.edge.cut_short(figures is None):
            return True
        if self.accelerator.is_main_process:
            self.writer.write(progress.step, progress.samples_seen, figures or {})
        ends = self.choosing.judge(progress, figures or {})
        self.accelerator.wait_for_everyone()
        self.log.restart_clock()
        return ends

    def _evaluates(self, progress: Progress) -> bool:
        every, last = self.evaluate_every, progress.step == self.total_steps
        due = progress.step == 0 or (every is not None and progress.step % every == 0)
        if not self.config.measured_sets or (last and progress.step and self.choosing.set_name is None):
            return False
        return due or last

    def checkpoint(self, progress: Progress) -> None:
        """Save by step, by the clock, at the end, and what is the best so far; training goes on meanwhile.

        Raises:
            MachineError: saving has failed for too long, or another trainer has taken over the run.
            PreemptedError: the run is told to end; what it saved is on disk.
        """
        self.saving.poll()
        due = progress.step > 0 and progress.step % self.checkpoint_every == 0
        is_best, last = progress.step == self.choosing.best_step, progress.step == self.total_steps
        ends = self.edge.stops
        if due or last or is_best or self.choosing.is_over or ends or self.edge.saves:
            self.log.flush()
            self.saving.save(progress)
            self.log.restart_clock()
        if ends:
            self.settle()
            self.edge.end(progress.step, self.total_steps)

    def settle(self) -> None:
        """Return on every rank when the last checkpoint is on the disk.

        Raises:
            MachineError: as `checkpoint` does.
        """
        self.saving.settle()

    def close(self) -> None:
        """Let saves and copies that have begun end."""
        self.saving.close()
