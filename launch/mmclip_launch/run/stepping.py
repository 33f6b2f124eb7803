"""The steps of a run, from where it stands to its end, with everything that happens between them."""

from pathlib import Path

from accelerate import Accelerator

from mmclip.training.progress import Progress
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.hooks import RunHooks
from mmclip_launch.run.parts import fit_parts
from mmclip_launch.run.profile import ProfileConfig, profiling
from mmclip_launch.run.recipe.choosing import Choosing
from mmclip_launch.run.records.streamed import write_summary
from mmclip_launch.run.surroundings import Surroundings
from mmclip_launch.screen import Screen


def take_steps(
    config: RunConfig, accelerator: Accelerator, run: Run, progress: Progress, around: Surroundings, screen: Screen
) -> tuple[Progress, Choosing]:
    """Train to the end, or to where early stopping ends the run; everything is on the disk then.

    Raises:
        UserError: the run has diverged, or too many samples are bad.
        MachineError: saving has failed for too long.
        PreemptedError: the run was told to end.
    """
    folder, edge = Path(config.output), around.edge
    profile = config.profile if accelerator.is_main_process else ProfileConfig()
    with screen.progress(run.total_steps, progress.step, config.global_batch_size) as show:
        hooks = RunHooks(
            config,
            accelerator,
            run,
            around.writer,
            around.evaluation,
            show,
            screen.alarm,
            around.journal,
            around.mirror,
            edge,
        )
        try:
            with profiling(profile, folder, screen.say) as hooks.after_step:
                if not hooks.choosing.is_over:
                    progress = fit_parts(run, progress, accelerator.device, hooks, screen, edge.activity.noting)
            hooks.settle()
            edge.finish()
        finally:
            hooks.close()
            write_summary(folder, run.loader.summary(), screen)
    return progress, hooks.choosing
