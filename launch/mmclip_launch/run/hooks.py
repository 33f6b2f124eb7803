"""What surrounds the steps of a run: metrics, ledger, quarantine, progress, evaluation and checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.errors import UserError
from mmclip.ops.gather import gather
from mmclip.training.agreement import Agreement
from mmclip.training.checkpoint.contents import TrainingState, checkpoint_bytes, contents
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.saver import Saver
from mmclip.training.checkpoint.sharded import sharded_contents
from mmclip.training.diagnostics import health
from mmclip.training.feature_health import health_of_features, joined_features
from mmclip.training.gathered import Gathered
from mmclip.training.progress import Progress
from mmclip.training.resolution import Part
from mmclip.training.step import TrainStep
from mmclip_data.loading.build import Loader
from mmclip_data.loading.census import most_bad
from mmclip_data.loading.loader import DataConfig
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.choosing import Choosing
from mmclip_launch.run.records.alarms import ALARMS, Expected, Monitor
from mmclip_launch.run.records.bad_samples import count_bad_samples, told_of_bad_samples
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.ledger import HASH_SPACE, LEDGER, QUARANTINE, hash_of_ids
from mmclip_launch.run.records.made_with import made_with
from mmclip_launch.run.records.skipped import SkippedStep, SkippedSteps
from mmclip_launch.run.records.trackers import METRICS, MetricWriter, has_scores
from mmclip_launch.run.stopping.activity import Activity
from mmclip_launch.run.stopping.edge import Edge
from mmclip_launch.run.stopping.stop_signals import StopRequest
from mmclip_launch.screen import Screen

ALWAYS = ("loss", "grad_norm", "skipped")
"""Figures of a step that every step has."""
Evaluate = Callable[[Progress, str | None], Mapping[str, float] | None]
"""Of the weights at a step, on all sets or on the one that is named; None where it was broken off."""
Show = Callable[[Progress, Mapping[str, float]], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """The parts of a run, built and checked, before anything is written or trained."""

    step: TrainStep
    loader: Loader
    data: DataConfig
    """With the views that its objectives need."""
    total_steps: int
    parts: Sequence[Part]
    """Its steps by picture size."""
    gathered: Gathered | None = None
    """What is evaluated where the weights are sharded."""


@dataclass(frozen=True)
class _Noted:
    """One finished step whose figures still wait on the device: scalars alone, however many steps wait."""

    progress: Progress
    figures: Mapping[str, Tensor]
    learning_rate: float
    ids_hash: int
    ids: tuple[str, ...]
    not_finite: Tensor
    bad_samples: int
    data_seconds: float
    finished_at: float


class RunHooks:
    """The hooks of `mmclip.training.loop.fit` for a run with a folder.

    Figures stay on the device and are read together every `log_every_steps`, because reading one waits for its step.
    """

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
        self.step = run.step
        self.writer = writer
        self.total_steps = run.total_steps
        self.data_fingerprint = run.loader.fingerprint_at
        self.made_with = made_with(accelerator.device)
        self.run_evaluation = evaluate
        self.show = show
        self.say_alarm = say_alarm
        self.edge = edge or Edge(StopRequest(Activity()), Agreement(accelerator.num_processes))
        self.folder = Path(config.output)
        self.journal = journal
        tenth = max(1, run.total_steps // 10)
        self.checkpoint_every = config.checkpoint.every_steps or tenth
        self.choosing = Choosing(config.early_stopping, self.folder, accelerator, journal.append)
        # What decides when the run ends must be asked now and then.
        self.evaluate_every = config.evaluation.every_steps or (tenth if self.choosing.set_name else None)
        self.bad_samples = self._bad_before()
        rank, ranks = accelerator.process_index, accelerator.num_processes
        # Every rank speaks of its own samples.
        max_skipped = config.optimizer.max_skipped_steps
        self.skipped = SkippedSteps(self.folder, rank, ranks, max_skipped, Screen().alarm, journal.append)
        # Under DDP all ranks hold the same state; of sharded state each writes its part.
        is_sharded = self.step.is_sharded
        writers = (rank, ranks) if is_sharded else (0, 1)
        saves = is_sharded or accelerator.is_main_process
        self.saver = Saver(journal.lease, config.checkpoint, say_alarm, *writers) if saves else None
        if self.saver is not None:
            self.saver.prepare(checkpoint_bytes(run.step.trained) // writers[1])
        self.mirror = mirror
        self.monitor = Monitor(Expected.of(config, run.total_steps))
        if accelerator.is_main_process:
            self.monitor.replay(self.folder / METRICS)
        self.after_step: Callable[[], None] = lambda: None
        """Called once after each step, before anything is written."""
        self._noted: list[_Noted] = []
        self._durable_step: int | None = None
        self._newest: StepReport | None = None
        """The only report whose embeddings are kept."""
        self._since = time.perf_counter()

    def record(self, progress: Progress, batch: ImageTextBatch, report: StepReport, data_seconds: float) -> None:
        """Note a step; write the noted ones when it is time."""
        self.after_step()
        first = progress.samples_seen - self.config.global_batch_size + self.accelerator.process_index * len(batch.ids)
        ids_hash = hash_of_ids(batch.ids, first)
        self._quarantine(progress, batch)
        now = time.perf_counter()
        figures = {"loss": report.loss, "grad_norm": report.grad_norm, "skipped": report.skipped, **report.metrics}
        self._noted.append(
            _Noted(
                progress,
                figures,
                report.learning_rate,
                ids_hash,
                batch.ids,
                report.not_finite,
                len(batch.replaced),
                data_seconds,
                now,
            )
        )
        self._newest = report
        if progress.step % self.config.log_every_steps == 0 or progress.step == self.total_steps:
            self.flush()

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
        self.flush()
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
        self._since = time.perf_counter()
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
        if self.saver is not None:
            self.saver.poll()
            self._note_durable()
        due = progress.step > 0 and progress.step % self.checkpoint_every == 0
        is_best, last = progress.step == self.choosing.best_step, progress.step == self.total_steps
        ends = self.edge.stops
        if due or last or is_best or self.choosing.is_over or ends or self.edge.saves:
            self._save(progress)
        if ends:
            self.settle()
            self.edge.end(progress.step, self.total_steps)

    def _save(self, progress: Progress) -> None:
        self.flush()
        self.edge.activity.begin("saving")
        self.edge.saved()
        if self.saver is not None:
            ranks = self.accelerator.num_processes
            state = TrainingState(progress, self.data_fingerprint(progress.samples_seen), ranks, self.made_with)
            files = (sharded_contents if self.step.is_sharded else contents)(self.step.trained, state)
            self.saver.save(progress.step, files, self._spared())
        self._since = time.perf_counter()

    def settle(self) -> None:
        """Return on every rank when the last checkpoint is on the disk.

        Raises:
            MachineError: as `checkpoint` does.
        """
        if self.saver is not None:
            self.saver.wait()
            self._note_durable()
            self.edge.is_on_disk()
        self.journal.settle()
        if self.mirror is not None:
            self.mirror.settle()
        self.edge.agreement.any(False)  # over a group that is patient: the disk may be slow

    def close(self) -> None:
        """Let saves and copies that have begun end."""
        if self.saver is not None:
            self.saver.close()
        if self.mirror is not None:
            self.mirror.close()

    def _spared(self) -> set[str]:
        """Checkpoints that stay however many follow: the best so far, and what is being copied."""
        best = self.choosing.best_folder
        spared = set() if best is None else {best.name}
        return spared if self.mirror is None else spared | self.mirror.spared

    def _note_durable(self) -> None:
        """What a checkpoint is good for once it is on the disk: being the run's result, and being copied."""
        assert self.saver is not None
        if self.saver.durable_step is not None and self.saver.durable_step != self._durable_step:
            self._durable_step = self.saver.durable_step
            if self.accelerator.is_main_process:
                self.choosing.record()
            if self.mirror is not None:
                self.mirror.offer(checkpoint_folder(self.folder, self._durable_step))
        if self.mirror is not None:
            self.mirror.poll()

    def flush(self) -> None:
        """Read the figures of the noted steps, joined over ranks, and write them.

        Raises:
            UserError: more steps were skipped than `optimizer.max_skipped_steps` or more samples are bad than
                `data.max_bad_fraction` allows.
            StaleLeaseError: another trainer has taken over the run; its files are left alone.
        """
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        # Objectives come and go with their weights: only the last step's figures are all read.
        always = [{name: step.figures[name] for name in ALWAYS} for step in noted]
        figures = self._mean_over_ranks(torch.stack([_stacked(step) for step in always]))
        (last,) = self._mean_over_ranks(_stacked(noted[-1].figures)[None])
        counts = self._sum_over_ranks(torch.tensor([[step.ids_hash, step.bad_samples] for step in noted]))
        self.bad_samples += sum(bad for _, bad in counts)
        self._ledger(noted, [values[0] for values in figures], [ids_hash for ids_hash, _ in counts])
        self.skipped.note(
            [
                SkippedStep(step.progress, loss, grad_norm, step.ids, _chosen(step.ids, step.not_finite))
                for step, (loss, grad_norm, skipped) in zip(noted, figures, strict=True)
                if skipped
            ]
        )
        self._check_budget(noted[-1].progress)
        self._log(noted, dict(zip(noted[-1].figures, last, strict=True)))

    def _log(self, noted: list[_Noted], last: Mapping[str, float]) -> None:
        joined, self._newest = _joined(self._newest), None  # a collective: on every rank
        if not self.accelerator.is_main_process:
            return
        seconds = noted[-1].finished_at - self._since
        samples = len(noted) * self.config.global_batch_size
        metrics = {
            **{f"train/{name}": value for name, value in last.items() if name != "skipped"},
            "train/learning_rate": noted[-1].learning_rate,
            "train/samples_per_second": samples / seconds,
            "train/data_wait_fraction": min(1.0, sum(step.data_seconds for step in noted) / seconds),
            "train/bad_samples": float(self.bad_samples),
            "train/skipped_steps": float(self.skipped.count),
            **_health(joined),
        }
        self._since = noted[-1].finished_at
        progress = noted[-1].progress
        self.writer.write(progress.step, progress.samples_seen, metrics)
        self.show(progress, metrics)
        for alarm in self.monitor.read(progress, metrics):
            self.journal.append(self.folder / ALARMS, [asdict(alarm)])
            self.say_alarm(f"step {alarm.step:,}: {alarm.message}")

    def _bad_before(self) -> int:
        """Bad samples of all ranks before this start; the first rank has cut the files back to the checkpoint."""
        count = count_bad_samples(self.folder) if self.accelerator.is_main_process else 0
        ((total,),) = self._sum_over_ranks(torch.tensor([[count]]))
        return int(total)

    def _check_budget(self, progress: Progress) -> None:
        share = self.config.data.max_bad_fraction
        if self.bad_samples > most_bad(share, progress.samples_seen):
            raise UserError(
                f"{self.bad_samples} of {progress.samples_seen} samples were bad, more than data.max_bad_fraction="
                f"{share} allows: {told_of_bad_samples(self.folder)}. Mend them or take them out (`mmclip shards check "
                "--decode` names them all), or allow more"
            )

    def _quarantine(self, progress: Progress, batch: ImageTextBatch) -> None:
        if batch.replaced:
            rank = self.accelerator.process_index
            name = QUARANTINE if self.accelerator.num_processes == 1 else f"{QUARANTINE}.rank{rank}"
            self.journal.append(
                self.folder / name, [{"step": progress.step, **asdict(entry)} for entry in batch.replaced]
            )

    def _ledger(self, noted: list[_Noted], losses: list[float], hashes: list[int]) -> None:
        """One line a step; the loss as text, because it may be NaN, which is no JSON."""
        lines = [
            {**asdict(step.progress), "ids": f"{ids_hash % HASH_SPACE:016x}", "loss": repr(loss)}
            for step, loss, ids_hash in zip(noted, losses, hashes, strict=True)
        ]
        if self.accelerator.is_main_process:
            self.journal.append(self.folder / LEDGER, lines)

    def _mean_over_ranks(self, figures: Tensor) -> list[list[float]]:
        return self.accelerator.reduce(figures, "mean").tolist()  # pyright: ignore

    def _sum_over_ranks(self, counts: Tensor) -> list[list[int]]:
        return self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()  # pyright: ignore


def _chosen(ids: tuple[str, ...], chosen: Tensor) -> tuple[str, ...]:
    return tuple(name for name, is_chosen in zip(ids, chosen.tolist(), strict=True) if is_chosen)


def _stacked(figures: Mapping[str, Tensor]) -> Tensor:
    loss = figures["loss"]
    return torch.stack([value.detach().to(loss).reshape(()) for value in figures.values()])


def _joined(report: StepReport | None) -> dict[str, Tensor]:
    """Embeddings of the whole batch in the order of its samples, which is that of the ranks, and its further features."""
    assert report is not None, "a step was recorded since the last log"
    pairs = {"image": gather(report.image_embed), "text": gather(report.text_embed)}
    return pairs | {name: joined_features(rows) for name, rows in report.features.items()}


def _health(joined: Mapping[str, Tensor]) -> dict[str, float]:
    image_embed, text_embed, *_ = joined.values()
    figures = health(image_embed, text_embed) if image_embed.shape[1] else {}  # of width 0 where nothing is paired
    for name, rows in list(joined.items())[2:]:
        figures |= {f"{name}_{figure}": value for figure, value in health_of_features(rows).items()}
    if not figures:
        return {}
    values = torch.stack([value.to(image_embed) for value in figures.values()]).tolist()  # one wait for the device
    return {f"health/{name}": value for name, value in zip(figures, values, strict=True)}
