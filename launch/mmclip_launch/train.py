"""`mmclip train CONFIG.toml`: one training run, from shards to a checkpoint and its scores.

    mmclip train launch/configs/demo.toml --seed 1
    accelerate launch --num_processes 2 -m mmclip_launch.train launch/configs/tiny-vit.toml
    torchrun --nproc_per_node 2 -m mmclip_launch.train launch/configs/tiny-vit.toml

This is the only place that sees every part; read `mmclip/training/loop.py` next, then `step.py` beside it.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from mmclip.batch import DataPosition
from mmclip.errors import UserError
from mmclip.objectives import Objective
from mmclip.release import create
from mmclip.towers.two_tower import TwoTower
from mmclip.training.checkpoint import checkpoint_folder, load_checkpoint, newest_checkpoint
from mmclip.training.loop import fit
from mmclip.training.module import TrainingModule
from mmclip.training.optim import build_optimizer
from mmclip.training.progress import Progress
from mmclip.training.step import TrainStep, UpdateRule
from mmclip_data.loading.loader import Layout, TrainLoader
from mmclip_eval.result import EvalResult
from mmclip_launch.evaluate import evaluate_checkpoint, evaluate_model
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.config_files import packaged_config
from mmclip_launch.run.folder import claim, config_table, refuse_changes
from mmclip_launch.run.hooks import LEDGER, Run, RunHooks, truncate_lines
from mmclip_launch.run.trackers import build_writers, check_installed
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse `CONFIG.toml [--resume] [--FIELD VALUE ...]` and train."""
    words = [word for word in arguments if word != "--resume"]
    if words and words[0] in ("-h", "--help"):  # the fields of some run, since help needs one
        words = [str(packaged_config("tiny-vit")), "--help"]
    if not words or words[0].startswith("-"):
        raise UserError("expected a run file: mmclip train CONFIG.toml [--resume] [--FIELD VALUE ...]")
    train(load_run_config(Path(words[0]), words[1:]), resume=len(words) < len(arguments))


def train(config: RunConfig, resume: bool = False) -> Path:
    """Run `config` to its end and evaluate it; the run folder is returned.

    Raises:
        UserError: the configuration cannot work here, the folder is taken, or the run has diverged.
    """
    accelerator = build_accelerator(config)
    share_cores(config, accelerator)
    screen = Screen(quiet=not accelerator.is_main_process)
    run = assemble(config, accelerator)
    folder = Path(config.output)
    progress = start_or_resume(config, resume, accelerator, run, screen)
    screen.plan(config, accelerator, run.loader.samples_per_epoch, run.total_steps, progress)
    settings, is_main = config_table(config), accelerator.is_main_process
    with closing(build_writers(config.trackers, folder, settings, progress.step, is_main)) as writer:
        with screen.progress(run.total_steps, progress.step, config.global_batch_size) as show:
            evaluation = partial(evaluate_now, config, run.step.module.towers, screen)
            hooks = RunHooks(config, accelerator, run, writer, evaluation, show)
            batches = run.loader.batches(DataPosition(progress.samples_seen))
            progress = fit(run.step, batches, progress, run.total_steps, accelerator.device, hooks)
        if config.evaluation.datasets and is_main:
            results = evaluate_checkpoint(str(folder), config.evaluation.datasets, None, screen)
            writer.write(progress.step, progress.samples_seen, scores(results))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    screen.say(f"run folder: {folder}")
    return folder


def assemble(config: RunConfig, accelerator: Accelerator) -> Run:
    """Build towers, objective, loader and step, and refuse what cannot work together.

    Raises:
        UserError: naming the field.
    """
    check_installed(config.trackers)
    torch.manual_seed(config.seed)
    objective: Objective = config.objective.build()
    towers = create(config.model, objective.needs.logit_bias)
    module = TrainingModule(towers, objective, accelerator.num_processes)
    if config.precision == "fp64":
        module.double()
    if config.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    layout = Layout(config.global_batch_size, accelerator.process_index, accelerator.num_processes)
    loader = TrainLoader(config.data, towers.spec, partial(tokenize, towers), layout, config.seed)
    total_steps = config.length.total_steps(config.global_batch_size, loader.samples_per_epoch)
    total_samples = total_steps * config.global_batch_size
    config.schedule.warmup(total_samples)  # a warmup that outlasts the run is refused here, not at its first step
    optimizer = build_optimizer(config.optimizer, module)
    update = UpdateRule(config.optimizer, config.schedule, total_samples, config.global_batch_size, config.seed)
    return Run(TrainStep(accelerator, module, optimizer, update), loader, total_steps)


def build_accelerator(config: RunConfig) -> Accelerator:
    """Devices, precision and process group; the loader, the schedule and all saving stay ours.

    Raises:
        UserError: a launcher started several processes that did not find each other.
    """
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    precision = "bf16" if config.precision == "bf16" else "no"
    # Without `cpu`, Accelerate leaves the processes of a launcher on a machine without a device unaware of each other.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    AcceleratorState._reset_state()  # a second run in one process may have another precision
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[ddp])
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise UserError(f"the launcher started {launched} processes, but this one sees {accelerator.num_processes}")
    return accelerator


def share_cores(config: RunConfig, accelerator: Accelerator) -> None:
    """On CPUs, leave each loader process a core: two threads beside one worker on two cores are slower than one.

    `OMP_NUM_THREADS`, which launchers set, wins.
    """
    if accelerator.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) // ranks_here
        torch.set_num_threads(max(1, cores - config.data.workers))


def tokenize(towers: TwoTower, captions: Sequence[str]) -> Tensor:
    """Token ids, cut to the longest caption where the text tower allows it."""
    return towers.trim(towers.tokenizer(captions))


def start_or_resume(config: RunConfig, resume: bool, accelerator: Accelerator, run: Run, screen: Screen) -> Progress:
    """Claim a new run folder, or fill everything from the newest checkpoint that verifies; decided on rank 0.

    Raises:
        UserError: the folder is taken, or the run that stands there was another one.
    """
    folder = Path(config.output)
    found = -1
    if accelerator.is_main_process:
        if resume and (folder / "config.toml").is_file():
            refuse_changes(config, folder)
            newest = newest_checkpoint(folder, screen.warn)
            found = int(newest.name.removeprefix("step-")) if newest else -1
        else:
            claim(config)
    accelerator.wait_for_everyone()
    chosen: Tensor = accelerator.reduce(
        torch.tensor([found if accelerator.is_main_process else 0]).to(accelerator.device)
    )  # pyright: ignore
    progress = Progress() if int(chosen) < 0 else restore(folder, int(chosen), accelerator, run, screen)
    if resume and int(chosen) < 0:
        screen.say(f"no checkpoint under {folder}: starting at step 0")
    if accelerator.is_main_process:
        for name in ("metrics.jsonl", LEDGER, *(path.name for path in folder.glob("quarantine.jsonl*"))):
            truncate_lines(folder / name, progress.step)
    return progress


def restore(folder: Path, step: int, accelerator: Accelerator, run: Run, screen: Screen) -> Progress:
    """Fill module and optimizer from the checkpoint of a step.

    Raises:
        UserError: the data or its order is not what the run began with.
    """
    state = load_checkpoint(checkpoint_folder(folder, step), run.step.module, run.step.bare_optimizer)
    if state.data_fingerprint != run.loader.fingerprint:
        raise UserError(
            f"{folder}: the training data or its order changed since the run began (fingerprint "
            f"{state.data_fingerprint}, now {run.loader.fingerprint}): restore the shards, "
            f"or start a new run from these weights with --model.init {folder}"
        )
    if state.world_size != accelerator.num_processes:
        screen.warn(
            f"resuming on {accelerator.num_processes} processes a run saved on {state.world_size}: "
            "the same samples in the same order, weights equal within rounding"
        )
    return state.progress


def evaluate_now(config: RunConfig, towers: TwoTower, screen: Screen, progress: Progress) -> Mapping[str, float]:
    """Scores of the weights as they are, by `dataset/metric`."""
    results = evaluate_model(towers, config.evaluation.datasets, f"step {progress.step}", screen)
    return scores(results)


def scores(results: Sequence[EvalResult]) -> dict[str, float]:
    """The figures of several results by `dataset/metric`."""
    return {f"{r.dataset}/{name}": estimate.value for r in results for name, estimate in r.metrics.items()}


if __name__ == "__main__":
    from mmclip_launch.cli import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
