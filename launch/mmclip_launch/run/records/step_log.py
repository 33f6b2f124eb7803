"""`StepLog`: figures of steps, read from the device together, joined over ranks, and written down."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.errors import UserError
from mmclip.training.progress import Progress
from mmclip_data.loading.census import most_bad
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.records.alarms import ALARMS, Expected, Monitor
from mmclip_launch.run.records.bad_samples import count_bad_samples, told_of_bad_samples
from mmclip_launch.run.records.health import health_figures, joined
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.ledger import HASH_SPACE, LEDGER, QUARANTINE, file_of_rank, hash_of_ids
from mmclip_launch.run.records.skipped import SkippedStep, SkippedSteps
from mmclip_launch.run.records.trackers import METRICS, MetricWriter
from mmclip_launch.screen import Screen

ALWAYS = ("loss", "grad_norm", "skipped")
"""Figures of a step that every step has."""
Show = Callable[[Progress, Mapping[str, float]], None]
Say = Callable[[str], None]


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


class StepLog:
    """Metrics, ledger, alarms, quarantine and skipped steps of a run.

    Figures stay on the device and are read together every `log_every_steps`, because reading one waits for its step.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        total_steps: int,
        writer: MetricWriter,
        show: Show,
        say_alarm: Say,
        journal: Journal,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.total_steps = total_steps
        self.writer = writer
        self.show = show
        self.say_alarm = say_alarm
        self.journal = journal
        self.folder = Path(config.output)
        self.bad_samples = self._bad_before()
        rank, ranks = accelerator.process_index, accelerator.num_processes
        # Every rank speaks of its own samples.
        max_skipped = config.optimizer.max_skipped_steps
        self.skipped = SkippedSteps(self.folder, rank, ranks, max_skipped, Screen().alarm, journal.append)
        self.monitor = Monitor(Expected.of(config, total_steps))
        if accelerator.is_main_process:
            self.monitor.replay(self.folder / METRICS)
        self._noted: list[_Noted] = []
        self._newest: StepReport | None = None
        """The only report whose embeddings are kept."""
        self._since = time.perf_counter()

    def restart_clock(self) -> None:
        """What has been done since the last figures was no training, and does not count as its time."""
        self._since = time.perf_counter()

    def record(self, progress: Progress, batch: ImageTextBatch, report: StepReport, data_seconds: float) -> None:
        """Note a step; write the noted ones when it is time."""
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
        embeddings, self._newest = joined(self._newest), None  # a collective: on every rank
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
            **health_figures(embeddings),
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
            name = file_of_rank(QUARANTINE, self.accelerator.process_index, self.accelerator.num_processes)
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
