"""A run takes its folder: a new one is begun, one that is there goes on from its newest checkpoint."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclip.training.checkpoint.contents import checkpoint_bytes
from mmclip.training.checkpoint.lease import Lease, claim
from mmclip.training.progress import Progress
from mmclip_launch.faults import RUN_FOLDER
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.folder import begin_folder, record
from mmclip_launch.run.beginning.fork import note_fork, take_checkpoint
from mmclip_launch.run.beginning.preflight import Checked, refuse_equal_prompts, refuse_small_disk
from mmclip_launch.run.beginning.restoring import begin, restore
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.choosing import WATCHED
from mmclip_launch.run.recipe.retained import RETAINED
from mmclip_launch.run.records.alarms import ALARMS
from mmclip_launch.run.records.ledger import LEDGER, QUARANTINE, SKIPPED, truncate_lines
from mmclip_launch.screen import Screen


def start_or_resume(
    config: RunConfig, checked: Checked | None, accelerator: Accelerator, run: Run, screen: Screen
) -> tuple[Progress, Lease]:
    """Begin a run folder, or fill everything from the checkpoint that rank 0 found (`checked` is None elsewhere).

    With the progress comes the right to write into the folder, which no trainer before this one has any more.

    Raises:
        UserError: the prompts do not fit the model, or the run that stands there was another one.
    """
    folder = Path(config.output)
    if checked is not None:
        _take_folder(checked, config, run, screen)
    accelerator.wait_for_everyone()
    RUN_FOLDER.set(folder)
    known = [0, 0] if checked is None else [checked.step, claim(folder).token]
    told: Tensor = accelerator.reduce(torch.tensor(known).to(accelerator.device))  # pyright: ignore
    step, token = map(int, told)
    progress = begin(config, run) if step < 0 else restore(folder, step, accelerator, run, screen)
    if accelerator.is_main_process:
        record(config)
        _cut_back(folder, progress)
    return progress, Lease(folder, token)


def _take_folder(checked: Checked, config: RunConfig, run: Run, screen: Screen) -> None:
    folder = Path(config.output)
    refuse_equal_prompts(checked.datasets, run.step.module.towers.tokenizer)
    refuse_small_disk(folder, checkpoint_bytes(run.step.trained), config.checkpoint.keep, screen.warn)
    if checked.fork is not None:
        note_fork(checked.fork, folder)
    if checked.is_new:
        begin_folder(config)
    if checked.fork is not None:
        take_checkpoint(checked.fork, folder)
        for line in checked.fork.told():
            screen.say(line)


def _cut_back(folder: Path, progress: Progress) -> None:
    """Drop what was written after the checkpoint: it comes again."""
    names = (f"{QUARANTINE}*", f"{SKIPPED}*")  # a file a rank
    several = [path.name for name in names for path in folder.glob(name)]
    for name in ("metrics.jsonl", LEDGER, ALARMS, WATCHED, RETAINED, *several):
        truncate_lines(folder / name, progress.step)
