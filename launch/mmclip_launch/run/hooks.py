"""What surrounds the steps of a run: metrics, ledger, quarantine, progress, evaluation and checkpoints."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import xxhash
from accelerate import Accelerator
from torch import Tensor

from mmclip.batch import ImageTextBatch, StepReport
from mmclip.errors import UserError
from mmclip.training.checkpoint import TrainingState, checkpoint_folder, remove_old, save_checkpoint
from mmclip.training.progress import Progress
from mmclip.training.step import TrainStep
from mmclip_data.loading.loader import TrainLoader
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.trackers import MetricWriter

LEDGER, QUARANTINE = "ledger.jsonl", "quarantine.jsonl"
HASH_SPACE = 2**62
"""Per-sample hashes are summed modulo this, so that the sum over ranks fits a signed 64-bit all-reduce."""

Evaluate = Callable[[Progress], Mapping[str, float]]
Show = Callable[[Progress, Mapping[str, float]], None]


@dataclass(frozen=True)
class Run:
    """The parts of a run, built and checked, before anything is written or trained."""

    step: TrainStep
    loader: TrainLoader
    total_steps: int


@dataclass(frozen=True)
class _Noted:
    """One finished step whose figures still wait on the device."""

    progress: Progress
    report: StepReport
    ids_hash: int
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
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.step = run.step
        self.writer = writer
        self.total_steps = run.total_steps
        self.data_fingerprint = run.loader.fingerprint
        self.run_evaluation = evaluate
        self.show = show
        self.folder = Path(config.output)
        self.checkpoint_every = config.checkpoint.every_steps or max(1, run.total_steps // 10)
        self.bad_samples = 0
        self._noted: list[_Noted] = []
        self._since = time.perf_counter()

    def record(self, progress: Progress, batch: ImageTextBatch, report: StepReport, data_seconds: float) -> None:
        """Note a step; write the noted ones when it is time."""
        first = progress.samples_seen - self.config.global_batch_size + self.accelerator.process_index * len(batch.ids)
        ids_hash = hash_of_ids(batch.ids, first)
        self._quarantine(progress, batch)
        now = time.perf_counter()
        self._noted.append(_Noted(progress, report, ids_hash, len(batch.replaced), data_seconds, now))
        if progress.step % self.config.log_every_steps == 0 or progress.step == self.total_steps:
            self.flush()

    def evaluate(self, progress: Progress) -> None:
        """Evaluate before the first step and every `evaluation.every_steps`; the end is left to the finished checkpoint."""
        every = self.config.evaluation.every_steps
        due = progress.step == 0 or (every is not None and progress.step % every == 0)
        if not self.config.evaluation.datasets or not due or progress.step == self.total_steps:
            return
        self.flush()
        if self.accelerator.is_main_process:
            self.writer.write(progress.step, progress.samples_seen, self.run_evaluation(progress))
        self.accelerator.wait_for_everyone()
        self._since = time.perf_counter()

    def checkpoint(self, progress: Progress) -> None:
        """Save every `checkpoint.every_steps` and at the end."""
        if progress.step % self.checkpoint_every and progress.step != self.total_steps:
            return
        self.flush()
        if self.accelerator.is_main_process:
            state = TrainingState(progress, self.data_fingerprint, self.accelerator.num_processes)
            folder = checkpoint_folder(self.folder, progress.step)
            save_checkpoint(folder, self.step.module, self.step.bare_optimizer, state)
            remove_old(self.folder, self.config.checkpoint.keep)
        self.accelerator.wait_for_everyone()
        self._since = time.perf_counter()

    def flush(self) -> None:
        """Read the figures of the noted steps, joined over ranks, and write them.

        Raises:
            UserError: a loss is not finite, or more samples are bad than `data.max_bad_fraction` allows.
        """
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        names = ("loss", "grad_norm", *noted[0].report.metrics)
        figures = self._mean_over_ranks(torch.stack([_figures(step.report) for step in noted]))
        counts = self._sum_over_ranks(torch.tensor([[step.ids_hash, step.bad_samples] for step in noted]))
        self.bad_samples += sum(bad for _, bad in counts)
        self._ledger(noted, [values[0] for values in figures], [ids_hash for ids_hash, _ in counts])
        for step, (loss, grad_norm, *_) in zip(noted, figures, strict=True):
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                raise UserError(
                    f"step {step.progress.step}: loss {loss}, gradient norm {grad_norm}: the run has diverged; "
                    f"lower optimizer.lr (now {self.config.optimizer.lr}) or lengthen the warmup, "
                    "and resume from the last checkpoint"
                )
        self._check_budget(noted[-1].progress)
        self._log(noted, dict(zip(names, figures[-1], strict=True)))

    def _log(self, noted: list[_Noted], last: Mapping[str, float]) -> None:
        seconds = noted[-1].finished_at - self._since
        samples = len(noted) * self.config.global_batch_size
        metrics = {
            **{f"train/{name}": value for name, value in last.items()},
            "train/learning_rate": noted[-1].report.learning_rate,
            "train/samples_per_second": samples / seconds,
            "train/data_wait_fraction": min(1.0, sum(step.data_seconds for step in noted) / seconds),
            "train/bad_samples": float(self.bad_samples),
        }
        self._since = noted[-1].finished_at
        progress = noted[-1].progress
        if self.accelerator.is_main_process:
            self.writer.write(progress.step, progress.samples_seen, metrics)
            self.show(progress, metrics)

    def _check_budget(self, progress: Progress) -> None:
        allowed = self.config.data.max_bad_fraction * progress.samples_seen
        # A handful is always allowed: one bad sample in the first batch says nothing about the share.
        if self.bad_samples > max(10.0, allowed):
            raise UserError(
                f"{self.bad_samples} of {progress.samples_seen} samples were bad, more than data.max_bad_fraction="
                f"{self.config.data.max_bad_fraction} allows; each is named in {self.folder / QUARANTINE}*"
            )

    def _quarantine(self, progress: Progress, batch: ImageTextBatch) -> None:
        if batch.replaced:
            rank = self.accelerator.process_index
            name = QUARANTINE if self.accelerator.num_processes == 1 else f"{QUARANTINE}.rank{rank}"
            append_lines(self.folder / name, [{"step": progress.step, **asdict(entry)} for entry in batch.replaced])

    def _ledger(self, noted: list[_Noted], losses: list[float], hashes: list[int]) -> None:
        """One line a step; the loss as text, because it may be NaN, which is no JSON."""
        lines = [
            {**asdict(step.progress), "ids": f"{ids_hash % HASH_SPACE:016x}", "loss": repr(loss)}
            for step, loss, ids_hash in zip(noted, losses, hashes, strict=True)
        ]
        if self.accelerator.is_main_process:
            append_lines(self.folder / LEDGER, lines)

    def _mean_over_ranks(self, figures: Tensor) -> list[list[float]]:
        return self.accelerator.reduce(figures, "mean").tolist()  # pyright: ignore

    def _sum_over_ranks(self, counts: Tensor) -> list[list[int]]:
        return self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()  # pyright: ignore


def hash_of_ids(ids: tuple[str, ...], first_position: int) -> int:
    """A hash of which sample stands at which place of the global batch; those of the ranks add up to that of the batch."""
    return (
        sum(xxhash.xxh3_64_intdigest(f"{first_position + i}:{name}".encode()) for i, name in enumerate(ids))
        % HASH_SPACE
    )


def append_lines(path: Path, entries: Sequence[Mapping[str, object]]) -> None:
    """Append strict JSON lines."""
    with path.open("a") as file:
        file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)


def truncate_lines(path: Path, after_step: int) -> None:
    """Drop the lines of later steps, and a last line that a kill cut short: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= after_step:
            kept.append(line + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _figures(report: StepReport) -> Tensor:
    values = (report.loss, report.grad_norm, *report.metrics.values())
    return torch.stack([value.detach().to(report.loss).reshape(()) for value in values])
