"""Early stopping of a run with a folder: decided on the first rank, known on all, and the same after a resume."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclip.errors import UserError
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.result import RESULT_FILE, RunResult, record_result
from mmclip.training.early_stopping import EarlyStopping, EarlyStoppingConfig, Watched, watched_names
from mmclip.training.progress import Progress
from mmclip_launch.run.records.ledger import Append, append_lines

WATCHED = "early_stopping.jsonl"
"""In the run folder: the figure at each evaluation. It is the whole state, and is cut at a resume like all logs."""


class Choosing:
    """Which step is the best so far, and whether the run is over; every rank makes each call."""

    def __init__(
        self,
        settings: EarlyStoppingConfig,
        folder: Path,
        accelerator: Accelerator,
        append: Append = append_lines,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self._accelerator = accelerator
        self._append = append
        before = _read(folder / WATCHED) if settings.metric and accelerator.is_main_process else []
        self._stopping = EarlyStopping(settings, before)
        self.best_step: int | None = None
        self.is_over = False
        if settings.metric is not None:
            self._agree()
            self._forget_later_result()

    @property
    def set_name(self) -> str | None:
        """The evaluation set that decides; None where the run goes to its end."""
        return None if self.settings.metric is None else self.settings.metric.partition("/")[0]

    @property
    def best_folder(self) -> Path | None:
        """The checkpoint that stays however many follow."""
        return None if self.best_step is None else checkpoint_folder(self.folder, self.best_step)

    def judge(self, progress: Progress, figures: Mapping[str, float]) -> bool:
        """Take in an evaluation, whose `figures` the first rank has; whether the run is over.

        Raises:
            UserError: the figure is not among them.
        """
        if self.settings.metric is None:
            return False
        if self._accelerator.is_main_process:
            value = self._value(figures)
            line = {"step": progress.step, "metric": self.settings.metric, "value": value}
            self._append(self.folder / WATCHED, [line])
            self._stopping.note(Watched(progress.step, value))
        self._agree()
        return self.is_over

    def record(self) -> None:
        """Name the best checkpoint, which is on disk, as what the run stands for; on the first rank."""
        best, folder = self._stopping.best, self.best_folder
        if best is not None and folder is not None and folder.is_dir():
            record_result(self.folder, RunResult(folder, self.told))

    @property
    def told(self) -> str:
        """The choice in words; on the first rank."""
        best = self._stopping.best
        if best is None:
            return f"{self.settings.metric} was never a number"
        return f"{self.settings.metric} = {best.value:.4f} at step {best.step:,}, the best so far"

    def _value(self, figures: Mapping[str, float]) -> float:
        metric = self.settings.metric or ""
        names = watched_names(metric, figures)
        if not names:
            raise UserError(
                f"early_stopping.metric={metric!r} is no figure of this run; there are: {', '.join(figures)}"
            )
        return fmean(figures[name] for name in names)

    def _agree(self) -> None:
        """Tell all ranks what the first one knows; it has seen every figure, they none."""
        best = self._stopping.best
        known = [0 if best is None else best.step + 1, int(self._stopping.is_over)]
        here = torch.tensor(known if self._accelerator.is_main_process else [0, 0], device=self._accelerator.device)
        agreed: Tensor = self._accelerator.reduce(here, "sum")  # pyright: ignore
        best_step, over = agreed.tolist()
        self.best_step, self.is_over = best_step - 1 if best_step else None, bool(over)

    def _forget_later_result(self) -> None:
        """A run that goes on from before its best step finds that step anew."""
        if self._accelerator.is_main_process:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)
            self.record()


def _read(path: Path) -> list[Watched]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [Watched(line["step"], line["value"]) for line in lines]
