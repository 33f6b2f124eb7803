"""A run is put together from its configuration: towers, objective, loader and step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclip.objectives import ModelShape, ObjectiveNeeds
from mmclip.objectives.combined import build_objective, needs_of
from mmclip.release import create, load
from mmclip.towers.two_tower import TwoTower
from mmclip.training.ema import WeightAverage
from mmclip.training.gathered import Gathered
from mmclip.training.module import TrainingModule
from mmclip.training.momentum import MomentumTowers
from mmclip.training.optim import build_optimizer
from mmclip.training.precision import Precision
from mmclip.training.sharding import ShardingConfig, build_mesh, shard, shard_towers
from mmclip.training.step import TrainStep, UpdateRule
from mmclip.training.teacher import Teacher
from mmclip_data.loading.build import Loader, build_loader
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.styles import needed_views
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.features import freeze
from mmclip_launch.run.parts import plan_parts
from mmclip_launch.run.peers import rank
from mmclip_launch.run.precision import settled
from mmclip_launch.run.recipe.chosen import choose_samples
from mmclip_launch.run.recipe.heads import add_head
from mmclip_launch.screen import Screen


def assemble(config: RunConfig, accelerator: Accelerator) -> Run:
    """Build towers, objective, loader and step, and refuse what cannot work together.

    Raises:
        UserError: naming the field.
    """
    torch.manual_seed(config.seed)
    needs = needs_of(config.objective, config.auxiliary)
    towers = _towers(config, needs)
    objective = build_objective(config.objective, config.auxiliary, _shape_of(towers))
    drawn = needed_views(needs.views, towers.spec, towers.patch_size, config.data.views)
    ranks = accelerator.num_processes
    micro_batches = config.accumulation.micro_batches(config.global_batch_size, ranks)
    module = TrainingModule(
        towers, objective, settled(config), world_size=ranks, micro_batches=micro_batches, views=drawn.places
    )
    if config.precision == "fp64":
        module.double()
    if config.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    data = replace(config.data, views=drawn.configs)
    loader = _loader(config, data, towers, accelerator)
    total_steps = config.length.total_steps(config.global_batch_size, loader.samples_per_epoch)
    total_samples = total_steps * config.global_batch_size
    config.schedule.warmup(total_samples)  # a warmup that outlasts the run is refused here, not at its first step
    freeze(config, towers)
    parts = plan_parts(config, towers, total_steps)
    update = UpdateRule(config.optimizer, config.schedule, total_samples, config.global_batch_size, config.seed)
    step, gathered = _step(config, accelerator, module, needs, update)
    return Run(step, loader, data, total_steps, parts, gathered)


def _towers(config: RunConfig, needs: ObjectiveNeeds) -> TwoTower:
    towers = create(config.model, needs.logit_bias, config.towers)
    left_out = add_head(config.head, config.data, towers)
    if left_out:
        Screen(quiet=rank() > 0).warn(left_out)
    return towers


def _shape_of(towers: TwoTower) -> ModelShape:
    """What the heads of objectives are built for."""
    return ModelShape(int(towers.model_cfg["embed_dim"]), towers.pooled_width, towers.spec.size, towers.patch_size)


def _loader(config: RunConfig, data: DataConfig, towers: TwoTower, accelerator: Accelerator) -> Loader:
    layout = Layout(config.global_batch_size, accelerator.process_index, accelerator.num_processes)
    return build_loader(
        data,
        towers.spec,
        partial(_tokenize, towers),
        layout,
        config.seed,
        say=Screen().warn,
        chosen=choose_samples(config.data),
    )


def _tokenize(towers: TwoTower, captions: Sequence[str]) -> Tensor:
    """Token ids, cut to the longest caption where the text tower allows it."""
    return towers.trim(towers.tokenizer(captions))


def _step(
    config: RunConfig, accelerator: Accelerator, module: TrainingModule, needs: ObjectiveNeeds, update: UpdateRule
) -> tuple[TrainStep, Gathered | None]:
    """One step of the run, on its device; and what is evaluated where the weights are sharded."""
    towers, precision = module.towers, settled(config)
    is_sharded = config.sharding.method == "fsdp2" and accelerator.num_processes > 1
    if not is_sharded:  # sharding brings what a device holds there, block by block
        module.to(accelerator.device)  # before the average is taken, which stays where the weights are
    ema = None if config.ema.decay is None else WeightAverage(config.ema, towers)
    momentum = None
    if needs.momentum is not None:
        momentum = MomentumTowers(towers, module.objective.needs, module.views, precision)
    gathered = _shard(config.sharding, module, ema, accelerator) if is_sharded else None
    optimizer = build_optimizer(config.optimizer, module)  # last, because sharded parameters are other tensors
    teacher = _teacher(needs.teacher, towers, precision, accelerator.device)
    step = TrainStep(accelerator, module, optimizer, update, config.accumulation, ema, teacher, momentum)
    step.compare_every = config.log_every_steps if config.auxiliary else None
    return step, gathered


def _shard(
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


def _teacher(source: str | None, student: TwoTower, precision: Precision, device: torch.device) -> Teacher | None:
    """The teacher of a run, where its objective has one.

    Raises:
        UserError: it does not load, or reads captions otherwise than the student.
    """
    return None if source is None else Teacher(load(source), student, precision, device)
