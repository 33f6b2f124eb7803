"""`mmclip train CONFIG.toml|RECIPE`: one training run, from shards to a checkpoint and its scores.

    mmclip train launch/configs/demo.toml --seed 1
    mmclip train slip --data.source.shards data/pairs
    accelerate launch --num_processes 2 -m mmclip_launch.train launch/configs/tiny-vit.toml
    torchrun --nproc_per_node 2 -m mmclip_launch.train launch/configs/tiny-vit.toml

This is the only place that sees every part; read `mmclip/training/loop.py` next, then `step.py` beside it.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from mmclip.errors import UserError
from mmclip.objectives import ModelShape
from mmclip.objectives.combined import build_objective, needs_of
from mmclip.release import create, load
from mmclip.towers.two_tower import TwoTower
from mmclip.training.agreement import Agreement
from mmclip.training.checkpoint.contents import checkpoint_bytes
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.lease import Lease, claim
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.ema import WeightAverage
from mmclip.training.gathered import Gathered
from mmclip.training.module import TrainingModule
from mmclip.training.momentum import MomentumTowers
from mmclip.training.optim import build_optimizer
from mmclip.training.precision import Precision, allow_tf32
from mmclip.training.progress import Progress
from mmclip.training.sharding import ShardingConfig, build_mesh, shard, shard_towers
from mmclip.training.step import TrainStep, UpdateRule
from mmclip.training.teacher import Teacher
from mmclip_data.loading.build import build_loader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.styles import needed_views
from mmclip_eval.report.page import PAGE
from mmclip_launch.faults import RUN_FOLDER
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.run.attempt import init_method
from mmclip_launch.run.beginning.folder import begin_folder, config_table, record
from mmclip_launch.run.beginning.fork import config_of_fork, note_fork, take_checkpoint, take_fork
from mmclip_launch.run.beginning.preflight import Checked, preflight, refuse_equal_prompts, refuse_small_disk
from mmclip_launch.run.beginning.restoring import begin, restore
from mmclip_launch.run.beginning.start import told_of_start
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.config_files import PRETRAIN, packaged_config, recipes, run_file
from mmclip_launch.run.cost import cost_of_run, told_of_cost
from mmclip_launch.run.features import encode_once, freeze
from mmclip_launch.run.hangs.watchdog import watching
from mmclip_launch.run.hooks import Run, RunHooks
from mmclip_launch.run.pairing import told_of_pairs
from mmclip_launch.run.parts import fit_parts, plan_parts
from mmclip_launch.run.peers import meet_peers, rank, world_size
from mmclip_launch.run.precision import agree, settle, settled
from mmclip_launch.run.profile import ProfileConfig, profiling
from mmclip_launch.run.recipe.choosing import WATCHED
from mmclip_launch.run.recipe.chosen import choose_samples
from mmclip_launch.run.recipe.heads import add_head, start_head
from mmclip_launch.run.recipe.recipe_checks import warn_of_warmup
from mmclip_launch.run.recipe.retained import RETAINED, compare_retained, guard, note_retained
from mmclip_launch.run.recipe.robust import settle_between
from mmclip_launch.run.records.alarms import ALARMS
from mmclip_launch.run.records.bad_samples import told_of_bad_samples
from mmclip_launch.run.records.journal import Journal
from mmclip_launch.run.records.ledger import LEDGER, QUARANTINE, SKIPPED, STREAMED, append_lines, truncate_lines
from mmclip_launch.run.records.trackers import build_writers
from mmclip_launch.run.scoring.drawing import draw_or_warn
from mmclip_launch.run.scoring.in_training import InTraining, scores
from mmclip_launch.run.sharding import asked_of_launcher, told_of_sharding
from mmclip_launch.run.stopping.edge import Edge
from mmclip_launch.run.stopping.stop_signals import StopRequest, stop_signals
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
    """A run whose signals are answered."""
    RUN_FOLDER.set(None)
    screen = Screen(quiet=rank() > 0)
    config = asked_of_launcher(config)
    was_auto, config = config.precision == "auto", settle(config, resume, config_of_fork(fork) if fork else None)
    checked = preflight(config, resume, screen.warn, fork) if rank() == 0 else None
    accelerator = build_accelerator(config)
    config = agree(config, accelerator, was_auto)
    allow_tf32(settled(config))
    share_cores(config, accelerator)
    run = assemble(config, accelerator)
    folder = Path(config.output)
    progress, lease = start_or_resume(config, checked, accelerator, run, screen)
    tell(config, accelerator, run, progress, resume, screen)
    encode_once(config, accelerator, run, screen)
    if not progress.step:
        fit_head(config, accelerator, run, screen)
    for line in run.loader.describe(run.total_steps * config.global_batch_size):
        screen.say(line)
    settings, is_main = config_table(config), accelerator.is_main_process
    datasets = checked.datasets if checked is not None else ()
    note = partial(note_retained, folder, config.retained)
    is_told = partial(stop.is_told_at, "at the edge")
    judged, filled = run.step.trained.judged, nullcontext
    if run.gathered is not None:
        judged, filled = run.gathered.towers, run.gathered.filled
    evaluation = InTraining(config, accelerator, judged, datasets, screen, note, is_told, filled)
    edge = Edge(stop, Agreement(accelerator.num_processes), config.checkpoint.every_minutes if is_main else None)
    watched = watching(config.watchdog, folder, rank(), world_size(), stop, Screen().alarm)
    patience = Patience(config.checkpoint.patience_minutes, Screen(quiet=False).alarm)
    journal = Journal(lease, patience)
    mirror = None
    if is_main and config.mirror.url is not None:
        mirror = Mirror(config.mirror, folder, progress.step, patience)
    writers = build_writers(config.trackers, folder, settings, progress.step, is_main, journal.append)
    with watched, closing(writers) as writer:
        with screen.progress(run.total_steps, progress.step, config.global_batch_size) as show:
            hooks = RunHooks(config, accelerator, run, writer, evaluation, show, screen.alarm, journal, mirror, edge)
            try:
                with profiling(config.profile if is_main else ProfileConfig(), folder, screen.say) as hooks.after_step:
                    if not hooks.choosing.is_over:
                        noting = edge.activity.noting
                        progress = fit_parts(run, progress, accelerator.device, hooks, screen, noting)
                hooks.settle()
                edge.finish()
            finally:
                hooks.close()
                write_summary(folder, run.loader.summary(), screen)
        if is_main and config.early_stopping.metric is not None:
            screen.say(f"the run ends at step {progress.step:,}, and its result is: {hooks.choosing.told}")
        if is_main and config.interpolation.alphas:
            best = hooks.choosing.best_folder or checkpoint_folder(folder, progress.step)
            settle_between(config, best, datasets, screen)
        if bad := told_of_bad_samples(folder):
            screen.warn(f"bad samples, in whose place others were taken: {bad}")
        accelerator.wait_for_everyone()  # the end of the run is evaluated by all, who must find it
        done, forgot = None, None
        if config.measured_sets or config.evaluation.report:
            done = evaluation.of_finished(str(folder))
            if done is not None and done.results and hooks.choosing.best_step in (None, progress.step):
                writer.write(progress.step, progress.samples_seen, scores(done.results))
        if done is not None and config.retained.datasets:
            forgot = compare_retained(folder, config.retained, done.results, screen)
    accelerator.wait_for_everyone()
    run.step.release()
    accelerator.end_training()
    if done is not None and config.evaluation.report:  # last of all: a drawing that fails loses nothing
        draw_or_warn(done, folder / PAGE, screen)
    screen.say(f"run folder: {folder}")
    if is_main:
        guard(folder, config.retained, forgot)
    RUN_FOLDER.set(None)
    return folder


def tell(
    config: RunConfig, accelerator: Accelerator, run: Run, progress: Progress, resume: bool, screen: Screen
) -> None:
    """What a person should know before the first step."""
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


def assemble(config: RunConfig, accelerator: Accelerator) -> Run:
    """Build towers, objective, loader and step, and refuse what cannot work together.

    Raises:
        UserError: naming the field.
    """
    torch.manual_seed(config.seed)
    needs = needs_of(config.objective, config.auxiliary)
    towers = create(config.model, needs.logit_bias, config.towers)
    left_out = add_head(config.head, config.data, towers)
    if left_out:
        Screen(quiet=rank() > 0).warn(left_out)
    ranks = accelerator.num_processes
    micro_batches = config.accumulation.micro_batches(config.global_batch_size, ranks)
    objective = build_objective(config.objective, config.auxiliary, shape_of(towers))
    drawn = needed_views(needs.views, towers.spec, towers.patch_size, config.data.views)
    data = replace(config.data, views=drawn.configs)
    module = TrainingModule(
        towers, objective, settled(config), world_size=ranks, micro_batches=micro_batches, views=drawn.places
    )
    if config.precision == "fp64":
        module.double()
    if config.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    layout = Layout(config.global_batch_size, accelerator.process_index, ranks)
    loader = build_loader(
        data,
        towers.spec,
        partial(tokenize, towers),
        layout,
        config.seed,
        say=Screen().warn,
        chosen=choose_samples(config.data),
    )
    total_steps = config.length.total_steps(config.global_batch_size, loader.samples_per_epoch)
    total_samples = total_steps * config.global_batch_size
    config.schedule.warmup(total_samples)  # a warmup that outlasts the run is refused here, not at its first step
    freeze(config, towers)
    parts = plan_parts(config, towers, total_steps)
    is_sharded = config.sharding.method == "fsdp2" and ranks > 1
    if not is_sharded:  # sharding brings what a device holds there, block by block
        module.to(accelerator.device)  # before the average is taken, which stays where the weights are
    ema = None if config.ema.decay is None else WeightAverage(config.ema, towers)
    momentum = None
    if needs.momentum is not None:
        momentum = MomentumTowers(towers, objective.needs, drawn.places, settled(config))
    gathered = shard_run(config.sharding, module, ema, accelerator) if is_sharded else None
    optimizer = build_optimizer(config.optimizer, module)  # last, because sharded parameters are other tensors
    update = UpdateRule(config.optimizer, config.schedule, total_samples, config.global_batch_size, config.seed)
    teacher = teacher_of(needs.teacher, towers, settled(config), accelerator.device)
    step = TrainStep(accelerator, module, optimizer, update, config.accumulation, ema, teacher, momentum)
    step.compare_every = config.log_every_steps if config.auxiliary else None
    return Run(step, loader, data, total_steps, parts, gathered)


def shape_of(towers: TwoTower) -> ModelShape:
    """What the heads of objectives are built for."""
    return ModelShape(int(towers.model_cfg["embed_dim"]), towers.pooled_width, towers.spec.size, towers.patch_size)


def shard_run(
    settings: ShardingConfig, module: TrainingModule, ema: WeightAverage | None, accelerator: Accelerator
) -> Gathered:
    """Shard what is trained, and its average like it; what evaluations gather is returned.

    Raises:
        UserError: the model or the objective cannot be sharded.
    """
    mesh = build_mesh(settings, accelerator.device, accelerator.num_processes)
    gathered = Gathered(module.towers, accelerator.device)
    shard(module, mesh)
    if ema is not None:
        shard_towers(ema.towers, mesh)
    gathered.follow(module.towers if ema is None else ema.towers)
    return gathered


def teacher_of(source: str | None, student: TwoTower, precision: Precision, device: torch.device) -> Teacher | None:
    """The teacher of a run, where its objective has one.

    Raises:
        UserError: it does not load, or reads captions otherwise than the student.
    """
    return None if source is None else Teacher(load(source), student, precision, device)


def fit_head(config: RunConfig, accelerator: Accelerator, run: Run, screen: Screen) -> None:
    """Fill the class head before the first step, and the average's with it."""
    towers, ema = run.step.module.towers, run.step.trained.ema
    start_head(config.head, config.data, towers, accelerator, config.seed, screen)
    if ema is not None and ema.towers.class_head is not None and towers.class_head is not None:
        ema.towers.class_head.load_state_dict(towers.class_head.state_dict())


def build_accelerator(config: RunConfig) -> Accelerator:
    """Devices, precision and process group; the loader, the schedule and all saving stay ours.

    Raises:
        UserError: a launcher started several processes that did not find each other.
    """
    store = meet_peers(config.peer_timeout_seconds)
    # Where a view meets no caption, or an objective does not count yet, weights get no gradient, and DDP has to find that out.
    unused = bool(needs_of(config.objective, config.auxiliary).views)
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused
    )
    # Without `cpu`, Accelerate leaves the processes of a launcher on a machine without a device unaware of each other.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    AcceleratorState._reset_state()  # a second run in one process may be on another device
    # The module itself casts, because not every pass of a step goes through the wrapper (mmclip/training/accumulate.py).
    group = [InitProcessGroupKwargs(init_method=init_method())] if world_size() > 1 else []
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[ddp, *group])
    del store  # rank 0 hosts it, and the process group has joined it by now
    if world_size() != accelerator.num_processes:
        raise UserError(f"the launcher started {world_size()} processes, but this one sees {accelerator.num_processes}")
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


def start_or_resume(
    config: RunConfig, checked: Checked | None, accelerator: Accelerator, run: Run, screen: Screen
) -> tuple[Progress, Lease]:
    """Begin a run folder, or fill everything from the checkpoint that rank 0 found (`checked` is None elsewhere).

    With the progress comes the right to write into the folder, which no trainer before this one has any more.

    Raises:
        UserError: the prompts do not fit the model, or the run that stands there was another one.
    """
    folder, towers = Path(config.output), run.step.module.towers
    if checked is not None:
        refuse_equal_prompts(checked.datasets, towers.tokenizer)
        refuse_small_disk(folder, checkpoint_bytes(run.step.trained), config.checkpoint.keep, screen.warn)
        if checked.fork is not None:
            note_fork(checked.fork, folder)
        if checked.is_new:
            begin_folder(config)
        if checked.fork is not None:
            take_checkpoint(checked.fork, folder)
            for line in checked.fork.told():
                screen.say(line)
    accelerator.wait_for_everyone()
    RUN_FOLDER.set(folder)
    known = [0, 0] if checked is None else [checked.step, claim(folder).token]
    told: Tensor = accelerator.reduce(torch.tensor(known).to(accelerator.device))  # pyright: ignore
    step, token = map(int, told)
    progress = begin(config, run) if step < 0 else restore(folder, step, accelerator, run, screen)
    if accelerator.is_main_process:
        record(config)
        names = (f"{QUARANTINE}*", f"{SKIPPED}*")  # a file a rank
        several = [path.name for name in names for path in folder.glob(name)]
        for name in ("metrics.jsonl", LEDGER, ALARMS, WATCHED, RETAINED, *several):
            truncate_lines(folder / name, progress.step)
    return progress, Lease(folder, token)


def write_summary(folder: Path, shards: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    """What this process has read of each shard, where only the end of a stream tells; of indexed shards there is nothing."""
    if not shards:
        return
    path = folder / (STREAMED if world_size() == 1 else f"{STREAMED}.rank{rank()}")
    append_lines(path, shards)
    samples, damaged = sum(shard["samples"] for shard in shards), sum(bool(shard["damages"]) for shard in shards)
    screen.say(f"streamed {samples:,} samples of {len(shards)} shards, {damaged} of them damaged: {path}")


if __name__ == "__main__":
    from mmclip_launch.cli import end, run_verb

    end(run_verb(main, sys.argv[1:]))
