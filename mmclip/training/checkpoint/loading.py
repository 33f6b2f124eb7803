"""Training state from a checkpoint, every tensor accounted for."""

from pathlib import Path
from typing import Any

import torch

from mmclip.errors import UserError
from mmclip.towers.class_head import load_head
from mmclip.towers.tensors import read_tensors
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE, fill, read_json
from mmclip.training.checkpoint.contents import (
    ADAPTER_FOLDER,
    MOMENTUM_FILE,
    OBJECTIVE_FILE,
    OPTIMIZER_FILE,
    RAW_HEAD_FILE,
    STATE_FILE,
    Trained,
    TrainingState,
    named_trained,
    read_state,
)
from mmclip.training.checkpoint.sharded import changes_layout, load_rows
from mmclip.training.module import TrainingModule
from mmclip.training.momentum import MomentumTowers


def load_checkpoint(folder: Path, trained: Trained) -> TrainingState:
    """Fill module, average and optimizer from a verified folder, every tensor accounted for.

    Raises:
        UserError: the folder belongs to another model or optimizer.
    """
    if changes_layout(folder, trained):
        return load_rows(folder, trained)
    if trained.has_adapters:  # the files of weights hold the sum of base and adapters, which cannot be taken apart
        from mmclip.towers.lora import load_adapters

        load_adapters(trained.module.towers.backbone, trained.average, folder / ADAPTER_FOLDER)
    else:
        fill(trained.judged, folder / WEIGHTS_FILE)
        if trained.ema is not None:
            fill(trained.module.towers, folder / RAW_WEIGHTS_FILE)
    _fill_heads(trained, folder)
    if (folder / OBJECTIVE_FILE).is_file():
        trained.module.objective.load_state_dict(read_tensors(folder / OBJECTIVE_FILE))
    if trained.momentum is not None:
        _fill_momentum(folder, trained.momentum)
    _fill_optimizer(folder, trained.module, trained.optimizer)
    return read_state(folder, trained.scaler)


def _fill_heads(trained: Trained, folder: Path) -> None:
    """The head of the average where there is one, and that of the weights themselves, which learns."""
    saved, own = load_head(folder), trained.module.towers.class_head
    if (saved is None) != (own is None) or (saved and own and saved.names != own.names):
        raise UserError(f"{folder} has another class head than this run: it belongs to another run")
    if saved is not None and trained.judged.class_head is not None:
        trained.judged.class_head.load_state_dict(saved.state_dict())
    if trained.ema is not None and own is not None:
        own.load_state_dict(read_tensors(folder / RAW_HEAD_FILE))


@torch.no_grad()
def _fill_momentum(folder: Path, momentum: MomentumTowers) -> None:
    path, own = folder / MOMENTUM_FILE, momentum.state()
    saved = read_tensors(path)
    if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in own.items()}:
        raise UserError(f"{path} has not the weights of this run's momentum towers: it belongs to another run")
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def _fill_optimizer(folder: Path, module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
    tensors = read_tensors(folder / OPTIMIZER_FILE)
    if not tensors and not read_json(folder / STATE_FILE)["progress"]["step"]:
        return  # moments come with the first step
    state: dict[int, dict[str, Any]] = {}
    may_rest = bool(module.objective.needs.views)
    for index, (name, parameter) in enumerate(named_trained(module, optimizer)):
        state[index] = {key: tensors.pop(f"{key}.{name}", None) for key in ("step", "exp_avg", "exp_avg_sq")}
        first = state[index]["exp_avg"]
        if may_rest and all(value is None for value in state[index].values()):
            del state[index]  # no step so far has given it a gradient
            continue
        if any(value is None for value in state[index].values()) or first is None or first.shape != parameter.shape:
            raise UserError(f"{folder / OPTIMIZER_FILE} has no moments that fit {name}: it belongs to another model")
        # `load_state_dict` keeps strides: moments must lie in memory as their parameter does, or the update differs.
        for key in ("exp_avg", "exp_avg_sq"):
            state[index][key] = torch.empty_like(parameter).copy_(state[index][key])
    if tensors:
        raise UserError(
            f"{folder / OPTIMIZER_FILE} has moments of unknown parameters: {', '.join(sorted(tensors)[:3])}"
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
