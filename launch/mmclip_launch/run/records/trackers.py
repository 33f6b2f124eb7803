"""Where the figures of a run go: always `metrics.jsonl`, and the trackers that the configuration switches on."""

import importlib.util
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_launch.run.records.ledger import Append, append_lines

METRICS = "metrics.jsonl"
Settings = Mapping[str, object]


@config
class TrackersConfig:
    """Trackers beside `metrics.jsonl`, which is always written."""

    tensorboard: bool = False
    """Write TensorBoard event files into `<output>/tensorboard`."""
    wandb: bool = False
    """Log to Weights & Biases; its own environment variables apply (WANDB_MODE=offline needs no account)."""
    trackio: bool = False
    """Log to Trackio's local database (its own environment variables apply, such as TRACKIO_DIR)."""
    project: str = "mmclip"
    """The project that W&B and Trackio file the run under; the run is named after its folder."""


class MetricWriter(Protocol):
    """Takes figures as they come; several calls may share a step, and steps never go back."""

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` (names such as `train/loss`) as they stand after `step` optimizer steps."""
        ...

    def close(self) -> None:
        """Hand over everything recorded; nothing may be written afterwards."""
        ...


class JsonLines:
    """One strict JSON object a line, each written at once, so that a killed run keeps every line."""

    def __init__(self, path: Path, append: Append) -> None:
        self._path = path
        self._append = append

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Append a line; NaN and infinities, which JSON lacks, become the texts "nan", "inf" and "-inf"."""
        assert metrics.keys().isdisjoint({"step", "samples_seen"}), metrics
        figures = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._append(self._path, [{"step": step, "samples_seen": samples_seen, **figures}])

    def close(self) -> None:
        """Nothing is left: each line was handed over."""


class TensorBoard:
    """Scalars over optimizer steps, with `samples_seen` as one of them."""

    def __init__(self, folder: Path, settings: Settings, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # After a resume TensorBoard hides what an earlier process wrote for the steps that are now run again.
        purge = resume_step + 1 if resume_step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        rows = [f"| {name} | `{value}` |" for name, value in settings.items()]
        self._writer.add_text("config", "\n".join(["| setting | value |", "|---|---|", *rows]), resume_step)

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Add one point a metric."""
        for name, value in {**metrics, "samples_seen": samples_seen}.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run that a resumed run of the same folder continues."""

    def __init__(self, project: str, folder: Path, settings: Settings) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=folder.name,
            id=_run_id(folder / "wandb-run-id.txt"),
            resume="allow",
            dir=folder,
            config=dict(settings),
            settings=wandb.Settings(console="off"),  # else it stores the progress bar, a line for each of its updates
        )

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Log a row; for a step that is run again after a resume W&B keeps the row it already has."""
        self._run.log({**metrics, "samples_seen": samples_seen}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """A Trackio run in its local database; a resumed run of the same folder continues it."""

    def __init__(self, project: str, folder: Path, settings: Settings) -> None:
        import trackio  # pyright: ignore[reportMissingImports]  # wants pillow < 13, so it is not in constraints.txt

        name = f"{folder.name}-{_run_id(folder / 'trackio-run-id.txt')}"
        self._run = trackio.init(project=project, name=name, config=dict(settings), resume="allow", embed=False)

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Log a row; a step that is run again after a resume is recorded twice."""
        self._run.log({**metrics, "samples_seen": samples_seen}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class FanOut:
    """Hands every call to each of its writers; with none of them it is the writer of a rank that records nothing."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self.writers = tuple(writers)

    def write(self, step: int, samples_seen: int, metrics: Mapping[str, float]) -> None:
        """Write to all, in order."""
        for writer in self.writers:
            writer.write(step, samples_seen, metrics)

    def close(self) -> None:
        """Close all, in order."""
        for writer in self.writers:
            writer.close()


def check_installed(trackers: TrackersConfig) -> None:
    """Refuse a tracker whose package is missing, before a run begins.

    Raises:
        UserError: naming the field and the extra to install.
    """
    for name in ("tensorboard", "wandb", "trackio"):
        if getattr(trackers, name) and importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers.{name} = true, but the package {name} is not installed: "
                f'pip install "mmclip[{name}]", or set it to false'
            )


def build_writers(
    trackers: TrackersConfig,
    folder: Path,
    settings: Settings,
    resume_step: int,
    is_main: bool,
    append: Append = append_lines,
) -> MetricWriter:
    """The writers of a run into an existing run folder; ranks other than the main one record nothing.

    `settings` is the run's configuration under flat `a.b` names. A run resumed at step n passes `resume_step` n, after
    the lines of later steps were dropped from `metrics.jsonl`.

    Raises:
        UserError: a tracker's package is not installed.
    """
    check_installed(trackers)
    if not is_main:
        return FanOut([])
    writers: list[MetricWriter] = [JsonLines(folder / METRICS, append)]
    if trackers.tensorboard:
        writers.append(TensorBoard(folder, settings, resume_step))
    if trackers.wandb:
        writers.append(WandB(trackers.project, folder, settings))
    if trackers.trackio:
        writers.append(Trackio(trackers.project, folder, settings))
    return FanOut(writers)


def has_scores(metrics_file: Path, step: int) -> bool:
    """Whether the evaluation of a step stands in `metrics.jsonl`: in a line of its own, without a loss."""
    if not metrics_file.is_file():
        return False
    entries = map(json.loads, metrics_file.read_text().splitlines())
    return any(entry["step"] == step and "train/loss" not in entry for entry in entries)


def _run_id(path: Path) -> str:
    """The name that a tracker knows the run folder by: random, so that another folder of the same name is another run."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()
