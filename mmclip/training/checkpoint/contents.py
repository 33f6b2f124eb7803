"""What a checkpoint holds: weights in open_clip's layout, the rest in safetensors and JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE, file_views, read_json, save_config
from mmclip.training.checkpoint.files import BytesFile, File, TensorFile, written_by
from mmclip.training.ema import WeightAverage
from mmclip.training.module import TrainingModule
from mmclip.training.momentum import MomentumTowers
from mmclip.training.progress import Progress

RAW_HEAD_FILE = "raw_class_head.safetensors"
STATE_FILE, OPTIMIZER_FILE, OBJECTIVE_FILE = "training_state.json", "optimizer.safetensors", "objective.safetensors"
MOMENTUM_FILE = "momentum_towers.safetensors"
"""The towers that teach the trained ones as their moving average."""
ADAPTER_FOLDER = "adapter"
"""In checkpoints of a run that trains adapters: these in peft's layout, and the weights beneath them."""


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds besides weights and optimizer moments."""

    progress: Progress
    data_fingerprint: str
    world_size: int
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Versions and device, by name."""


@dataclass(frozen=True)
class Trained:
    """Everything of a run that its steps change."""

    module: TrainingModule
    optimizer: torch.optim.Optimizer
    ema: WeightAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    momentum: MomentumTowers | None = None

    @property
    def judged(self) -> TwoTower:
        """The towers that evaluation, export and `load` take: the average where there is one."""
        return self.module.towers if self.ema is None else self.ema.towers

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained in place of weights."""
        return self.module.towers.settings.adapters is not None

    @property
    def average(self) -> Any | None:
        """The backbone of the average, where there is one."""
        return None if self.ema is None else self.ema.towers.backbone


def contents(trained: Trained, state: TrainingState) -> list[File]:
    """Everything that a resume needs, as files that still share memory with what is trained.

    Where weights are averaged, the average is what other programs find, and the raw weights stand beside it.
    """
    module, judged = trained.module, trained.judged
    files: list[File] = [
        TensorFile(WEIGHTS_FILE, file_views(judged)),
        *written_by(lambda folder: save_config(judged, folder)),
    ]
    if trained.ema is not None:
        files.append(TensorFile(RAW_WEIGHTS_FILE, file_views(module.towers)))
        if module.towers.class_head is not None:
            files.append(TensorFile(RAW_HEAD_FILE, module.towers.class_head.state_dict()))
    if trained.has_adapters:
        from mmclip.towers.lora import adapter_config, adapter_files  # imports open_clip

        backbone, average = module.towers.backbone, trained.average
        named = adapter_files(backbone, average).items()
        files += [TensorFile(f"{ADAPTER_FOLDER}/{name}", tensors) for name, tensors in named]
        files += written_by(lambda folder: adapter_config(backbone, folder), f"{ADAPTER_FOLDER}/")
    files.append(TensorFile(OPTIMIZER_FILE, optimizer_tensors(module, trained.optimizer)))
    objective: dict[str, Tensor] = module.objective.state_dict()
    if objective:
        files.append(TensorFile(OBJECTIVE_FILE, objective))
    if trained.momentum is not None:
        files.append(TensorFile(MOMENTUM_FILE, trained.momentum.state()))
    return [*files, state_file(trained, state)]


def state_file(trained: Trained, state: TrainingState) -> BytesFile:
    """What of a checkpoint is no tensor."""
    table: dict[str, Any] = asdict(state)
    if trained.scaler is not None and trained.scaler.is_enabled():
        table["scaler"] = trained.scaler.state_dict()
    return BytesFile(STATE_FILE, (json.dumps(table, indent=1) + "\n").encode())


def read_state(folder: Path, scaler: torch.amp.GradScaler | None) -> TrainingState:
    """What `state_file` holds, the scaler filled with its part.

    Raises:
        UserError: it is not what was written.
    """
    path = folder / STATE_FILE
    table = read_json(path)
    try:
        if scaler is not None and scaler.is_enabled() and "scaler" in table:  # not in one of another precision
            scaler.load_state_dict(table["scaler"])
        progress = Progress(int(table["progress"]["step"]), int(table["progress"]["samples_seen"]))
        made_with = dict(table.get("made_with") or table.get("versions", {}))  # as it was called at first
        return TrainingState(progress, str(table["data_fingerprint"]), int(table["world_size"]), made_with)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not what mmclip writes ({type(error).__name__}: {error}): take an earlier checkpoint"
        ) from error


def checkpoint_bytes(trained: Trained) -> int:
    """About the size on disk: the weights, their average, and two moments of each that is trained."""
    weights = sum(tensor.nbytes for tensor in trained.module.state_dict().values())
    if trained.ema is not None:
        weights += sum(tensor.nbytes for tensor in trained.ema.towers.state_dict().values())
    if trained.momentum is not None:
        weights += sum(tensor.nbytes for tensor in trained.momentum.state().values())
    if trained.has_adapters:  # the base stands beside the sum
        weights += sum(tensor.nbytes for tensor in trained.module.towers.state_dict().values())
    return weights + 2 * sum(p.nbytes for p in trained.module.parameters() if p.requires_grad)


def named_trained(module: TrainingModule, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters in the optimizer's own order, with their names, which outlive that order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [(names[p], p) for group in optimizer.param_groups for p in group["params"]]


def optimizer_tensors(module: TrainingModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by kind and parameter: `exp_avg.towers.backbone.visual.proj`."""
    return {
        f"{key}.{name}": value.detach()
        for name, parameter in named_trained(module, optimizer)
        for key, value in optimizer.state[parameter].items()
    }
