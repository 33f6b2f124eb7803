"""What a person should know before the first step."""

from accelerate import Accelerator

from mmclip.training.progress import Progress
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.start import told_of_start
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.cost import cost_of_run, told_of_cost
from mmclip_launch.run.pairing import told_of_pairs
from mmclip_launch.run.recipe.recipe_checks import warn_of_warmup
from mmclip_launch.run.sharding import told_of_sharding
from mmclip_launch.screen import Screen


def tell(
    config: RunConfig, accelerator: Accelerator, run: Run, progress: Progress, resume: bool, screen: Screen
) -> None:
    """Say it, and what does not look right."""
    if resume and not progress.step:
        screen.say(f"no checkpoint under {config.output}: starting at step 0")
    sharding = told_of_sharding(config, accelerator.num_processes)
    for line in (*sharding, *told_of_start(config, run.step.module.towers)):
        screen.say(line)
    for line in told_of_pairs(config):
        screen.say(line)
    module = run.step.module
    screen.say(told_of_cost(cost_of_run(config, module.objective, module.towers, run.data.views)))
    for line in warn_of_warmup(config, run.total_steps):
        screen.warn(line)
    screen.plan(config, accelerator, run.loader.samples_per_epoch, run.total_steps, progress)
    screen.trained(run.step.module.parameters())
