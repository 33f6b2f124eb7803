"""`mmclip train CONFIG.toml|RECIPE`: one training run, from shards to a checkpoint and its scores.

    mmclip train launch/configs/demo.toml --seed 1
    mmclip train slip --data.source.shards data/pairs
    accelerate launch --num_processes 2 -m mmclip_launch.train launch/configs/tiny-vit.toml
    torchrun --nproc_per_node 2 -m mmclip_launch.train launch/configs/tiny-vit.toml

This is the only place that sees every part; read `mmclip/training/loop.py` next, then `step.py` beside it.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mmclip.errors import UserError
from mmclip.training.precision import allow_tf32
from mmclip_launch.faults import RUN_FOLDER
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.fork import config_of_fork, take_fork
from mmclip_launch.run.beginning.opening import start_or_resume
from mmclip_launch.run.beginning.preflight import preflight
from mmclip_launch.run.beginning.processes import build_accelerator, share_cores
from mmclip_launch.run.beginning.telling import tell
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.config_files import PRETRAIN, packaged_config, recipes, run_file
from mmclip_launch.run.ending import conclude, judge, settle_result
from mmclip_launch.run.features import encode_once
from mmclip_launch.run.peers import rank
from mmclip_launch.run.precision import agree, settle, settled
from mmclip_launch.run.recipe.heads import fit_head
from mmclip_launch.run.sharding import asked_of_launcher
from mmclip_launch.run.stepping import take_steps
from mmclip_launch.run.stopping.stop_signals import StopRequest, stop_signals
from mmclip_launch.run.surroundings import surround
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse `CONFIG.toml [--resume] [--fork RUN] [--FIELD VALUE ...]` and train."""
    rest, fork = take_fork(arguments)
    words = [word for word in rest if word != "--resume"]
    if words and words[0] in ("-h", "--help"):  # the fields of some run, since help needs one
        words = [str(packaged_config("tiny-vit")), "--help"]
    if not words or words[0].startswith("-"):
        raise UserError(
            "expected a run file: mmclip train CONFIG.toml [--resume] [--fork RUN] [--FIELD VALUE ...], or a recipe for it: "
            f"{', '.join(recipes(PRETRAIN))}"
        )
    train(load_run_config(run_file(words[0]), words[1:]), resume=len(words) < len(rest), fork=fork)


def train(config: RunConfig, resume: bool = False, fork: Path | None = None) -> Path:
    """Run `config` to its end and evaluate it; the run folder is returned.

    `fork` is a run, or a checkpoint of one, that a new folder goes on from; with `resume` it counts at the first start only.

    Raises:
        UserError: the configuration cannot work here, the folder is taken, or the run has diverged.
        PreemptedError: SIGTERM or SIGUSR1 came to one of its processes, and what it had learned is saved.
    """
    with stop_signals() as stop:
        return run_to_end(config, resume, fork, stop)


def run_to_end(config: RunConfig, resume: bool, fork: Path | None, stop: StopRequest) -> Path:
    """A run whose signals are answered: checked, put together, begun or resumed, trained, judged."""
    RUN_FOLDER.set(None)
    screen = Screen(quiet=rank() > 0)
    config = asked_of_launcher(config)
    was_auto, config = config.precision == "auto", settle(config, resume, config_of_fork(fork) if fork else None)
    checked = preflight(config, resume, screen.warn, fork) if rank() == 0 else None
    datasets = checked.datasets if checked is not None else ()
    accelerator = build_accelerator(config)
    config = agree(config, accelerator, was_auto)
    allow_tf32(settled(config))
    share_cores(config, accelerator)

    run = assemble(config, accelerator)
    progress, lease = start_or_resume(config, checked, accelerator, run, screen)
    tell(config, accelerator, run, progress, resume, screen)
    encode_once(config, accelerator, run, screen)
    if not progress.step:
        fit_head(config, accelerator, run, screen)
    for line in run.loader.describe(run.total_steps * config.global_batch_size):
        screen.say(line)

    around = surround(config, accelerator, run, progress, lease, datasets, stop, screen)
    with around.watched, closing(around.writer):
        progress, choosing = take_steps(config, accelerator, run, progress, around, screen)
        if accelerator.is_main_process:
            settle_result(config, progress, choosing, datasets, screen)
        judged = judge(config, accelerator, progress, choosing, around, screen)
    accelerator.wait_for_everyone()
    run.step.release()
    is_main = accelerator.is_main_process
    accelerator.end_training()
    conclude(config, judged, is_main, screen)
    RUN_FOLDER.set(None)
    return Path(config.output)


if __name__ == "__main__":
    from mmclip_launch.cli import end, run_verb

    end(run_verb(main, sys.argv[1:]))
