"""The steps of a run, part by part: one loop for each picture size, on the same model, optimizer and order of samples."""

from collections.abc import Callable, Iterator, Sequence

import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower
from mmclip.training.loop import Hooks, fit
from mmclip.training.progress import Progress
from mmclip.training.resolution import Part, part_before, parts_of
from mmclip_data.loading.on_device import finish_on_device
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.screen import Screen


def plan_parts(config: RunConfig, towers: TwoTower, total_steps: int) -> list[Part]:
    """The parts of a run, which its towers can go through.

    Raises:
        UserError: they cannot, or the parts do not follow each other.
    """
    parts = parts_of(config.resolution, towers.spec.size, total_steps, config.global_batch_size)
    if len(parts) > 1:
        try:
            towers.refuse_image_sizes([part.size for part in parts])
        except UserError as error:
            raise UserError(f"resolution: {error}") from error
    return parts


def take_size_before(run: Run, step: int) -> None:
    """Bring the model to the size that a run of so many steps was trained at last, before its checkpoint is read."""
    _take_size(run, part_before(run.parts, step))


def fit_parts(
    run: Run,
    progress: Progress,
    device: torch.device,
    hooks: Hooks,
    screen: Screen,
    noting: Callable[[Iterator[ImageTextBatch]], Iterator[ImageTextBatch]] = iter,
) -> Progress:
    """Train from `progress` to the end; the batches go through `noting`, who sees when one is waited for."""
    for part in run.parts:
        if progress.step < part.end_step or part is run.parts[-1]:
            anew = _take_size(run, part)
            if len(run.parts) > 1:
                screen.say(f"pictures of {part.size[0]} x {part.size[1]} until step {part.end_step:,}")
            if anew:
                screen.warn(f"moments of {', '.join(anew)} begin anew: they are no grid of positions")
            # The lengths of captions are read while these are on the host.
            loaded = map(run.step.measured, run.loader.batches(DataPosition(progress.samples_seen)))
            batches = noting(finish_on_device(loaded, run.data, run.step.module.towers.spec, device))
            del loaded
            progress = fit(run.step, batches, progress, part.end_step, device, hooks)
            if progress.step < part.end_step:  # an evaluation ended the run
                break
    return progress


def _take_size(run: Run, part: Part) -> Sequence[str]:
    towers = run.step.module.towers
    if towers.spec.size == part.size:
        return ()
    anew = run.step.set_image_size(part.size)
    run.loader.take_size(towers.spec)
    return anew
