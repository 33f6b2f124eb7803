"""What stands around the steps of a run: who judges it, writes it down, copies it, watches it, and may end it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from mmclip.training.agreement import Agreement
from mmclip.training.checkpoint.lease import Lease
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.progress import Progress
from mmclip_eval.datasets import OpenedDataset
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.folder import config_table
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.hangs.watchdog import watching
from mmclip_launch.run.peers import rank, world_size
from mmclip_launch.run.recipe.retained import note_retained
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.trackers import MetricWriter, build_writers
from mmclip_launch.run.scoring.in_training import InTraining
from mmclip_launch.run.stopping.edge import Edge
from mmclip_launch.run.stopping.stop_signals import StopRequest
from mmclip_launch.screen import Screen


@dataclass(frozen=True)
class Surroundings:
    """Of one process; `watched` is entered before the first step, and `writer` closed after the last figure."""

    evaluation: InTraining
    edge: Edge
    journal: Journal
    mirror: Mirror | None
    writer: MetricWriter
    watched: AbstractContextManager[None]


def surround(
    config: RunConfig,
    accelerator: Accelerator,
    run: Run,
    progress: Progress,
    lease: Lease,
    datasets: Sequence[OpenedDataset],
    stop: StopRequest,
    screen: Screen,
) -> Surroundings:
    """Set it up for a run that begins at `progress`; the first rank has the `datasets`.

    Raises:
        UserError: a tracker's package is not installed.
    """
    folder, is_main = Path(config.output), accelerator.is_main_process
    judged, filled = run.step.trained.judged, nullcontext
    if run.gathered is not None:
        judged, filled = run.gathered.towers, run.gathered.filled
    note = partial(note_retained, folder, config.retained)
    is_told = partial(stop.is_told_at, "at the edge")
    evaluation = InTraining(config, accelerator, judged, datasets, screen, note, is_told, filled)
    edge = Edge(stop, Agreement(accelerator.num_processes), config.checkpoint.every_minutes if is_main else None)
    watched = watching(config.watchdog, folder, rank(), world_size(), stop, Screen().alarm)
    patience = Patience(config.checkpoint.patience_minutes, Screen(quiet=False).alarm)
    journal = Journal(lease, patience)
    mirror = None
    if is_main and config.mirror.url is not None:
        mirror = Mirror(config.mirror, folder, progress.step, patience)
    writer = build_writers(config.trackers, folder, config_table(config), progress.step, is_main, journal.append)
    return Surroundings(evaluation, edge, journal, mirror, writer, watched)
