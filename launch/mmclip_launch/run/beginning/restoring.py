"""Where a run starts: at nothing, where a run of open_clip's trainer left off, or at a checkpoint."""

from pathlib import Path

from accelerate import Accelerator

from mmclip.errors import UserError
from mmclip.release.open_clip_training import take_over
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.loading import load_checkpoint
from mmclip.training.progress import Progress
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.fork import is_fork_at
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.parts import take_size_before
from mmclip_launch.run.records.made_with import made_with, told_of_others
from mmclip_launch.screen import Screen


def begin(config: RunConfig, run: Run) -> Progress:
    """Where a new run starts: at 0, or where a run of open_clip's trainer left off.

    Raises:
        UserError: that run was one of another model, or is as long as this one is to be.
    """
    if config.resume_open_clip is None:
        return Progress()
    step = take_over(Path(config.resume_open_clip), run.step.trained)
    if step >= run.total_steps:
        raise UserError(
            f"resume_open_clip={config.resume_open_clip!r} has {step:,} steps behind it, and this run has "
            f"{run.total_steps:,} in all: lengthen it (length counts from the beginning of the first run)"
        )
    return Progress(step, step * config.global_batch_size)


def restore(folder: Path, step: int, accelerator: Accelerator, run: Run, screen: Screen) -> Progress:
    """Fill module and optimizer from the checkpoint of a step.

    Raises:
        UserError: the data or its order is not what the run began with.
    """
    take_size_before(run, step)
    is_fork = is_fork_at(folder, step)
    try:
        state = load_checkpoint(checkpoint_folder(folder, step), run.step.trained)
    except UserError as error:
        if not is_fork:
            raise
        raise UserError(f"--fork: the checkpoint does not fit these settings: {error}") from error
    fingerprint = run.loader.fingerprint_at(state.progress.samples_seen)
    if state.data_fingerprint != fingerprint and not is_fork:
        raise UserError(
            f"{folder}: the training data or its order changed since the run began (fingerprint "
            f"{state.data_fingerprint}, now {fingerprint}): restore the shards, or go on with these in a new folder: "
            f"--fork {folder} --output NEW"
        )
    if state.data_fingerprint != fingerprint:
        screen.warn(
            f"the fork trains on other data, or in another order: it goes on at position {state.progress.samples_seen:,} of "
            "the new order; what stands before is not seen, and what the first run saw may come again"
        )
    for line in told_of_others(state.made_with, made_with(accelerator.device)):
        screen.warn(line)
    if state.world_size != accelerator.num_processes:
        screen.warn(
            f"resuming on {accelerator.num_processes} processes a run saved on {state.world_size}: "
            "the same samples in the same order, weights equal within rounding"
        )
    return state.progress
