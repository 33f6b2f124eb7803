"""Checkpoints of which each rank writes and reads its own rows (`mmclip.towers.layout`), and those that change their layout.

A checkpoint written by one layout loads in any other: by one process, by other ranks, and from plain files into shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.shards import is_sharded, local, own_rows, place
from mmclip.towers.layout import RAW_LAYOUT, WEIGHTS_LAYOUT, Stored, describe, layout_of, shard_file, stored
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE, save_config
from mmclip.training.checkpoint.contents import (
    OBJECTIVE_FILE,
    OPTIMIZER_FILE,
    Trained,
    TrainingState,
    named_trained,
    optimizer_tensors,
    read_state,
    state_file,
)
from mmclip.training.checkpoint.files import BytesFile, File, TensorFile, written_by
from mmclip.training.sharding import is_sharded_module

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Place:
    """Where a rank stands among those that save."""

    shard: int
    shards: int
    replica: int
    """Ranks of the first replica alone write tensors; the others hold the same."""

    @staticmethod
    def of(trained: Trained) -> "Place":
        """This rank's, as its parameters tell."""
        parameter: Any = next(parameter for parameter in trained.module.parameters() if is_sharded(parameter))
        mesh = parameter.device_mesh
        shard, shards = place(parameter)
        return Place(shard, shards, mesh.get_local_rank(0) if mesh.ndim > 1 else 0)


def sharded_contents(trained: Trained, state: TrainingState) -> list[File]:
    """This rank's files of a checkpoint; no rank waits for another."""
    here = Place.of(trained)
    if here.replica:
        return []
    files: list[File] = []
    for name, tensors in _groups(trained).items():
        files.append(TensorFile(shard_file(name, here.shard, here.shards), _held(tensors, here.shard)))
        if not here.shard:
            files.append(BytesFile(layout_of(name), describe(tensors, here.shards)))
    if not here.shard:
        judged = trained.judged
        files += [*written_by(lambda folder: save_config(judged, folder)), state_file(trained, state)]
    return files


def changes_layout(folder: Path, trained: Trained) -> bool:
    """Whether a checkpoint and what it is to fill are not both whole."""
    return (folder / WEIGHTS_LAYOUT).is_file() or is_sharded_module(trained.module)


def load_rows(folder: Path, trained: Trained) -> TrainingState:
    """Fill module, average and optimizer from a verified folder of any layout; each rank reads what it holds.

    Raises:
        UserError: the folder belongs to another model or optimizer.
    """
    with _group(folder, WEIGHTS_LAYOUT, WEIGHTS_FILE) as weights:
        fill_rows(trained.judged.backbone.state_dict(), weights)
    if trained.ema is not None:
        with _group(folder, RAW_LAYOUT, RAW_WEIGHTS_FILE) as weights:
            fill_rows(trained.module.towers.backbone.state_dict(), weights)
    objective = trained.module.objective.state_dict()
    if objective:
        with _group(folder, layout_of("objective"), OBJECTIVE_FILE) as tensors:
            fill_rows(objective, tensors)
    state = read_state(folder, trained.scaler)
    with _group(folder, layout_of("optimizer"), OPTIMIZER_FILE) as moments:
        if moments.shapes or state.progress.step:  # moments come with the first step
            _fill_optimizer(trained, moments)
    return state


@torch.no_grad()
def fill_rows(tensors: Mapping[str, Tensor], source: Stored) -> None:
    """Copy into each tensor the rows that it holds; every name has to be on both sides.

    Raises:
        UserError: naming the first that is not, or that has another shape.
    """
    unknown = [name for name in source.shapes if name not in tensors]
    if unknown:
        raise UserError(f"{source.path} has an unknown {min(unknown)}: it belongs to another model or optimizer")
    for name, tensor in tensors.items():
        shape, expected = source.shapes.get(name), tuple(tensor.shape)
        is_scalar = expected == (1,) and shape == ()  # scale and bias in plain files of open_clip
        if shape != expected and not is_scalar:
            had = "is missing" if shape is None else f"has shape {list(shape)}, expected {list(expected)}"
            raise UserError(f"{source.path}: {name} {had}: it belongs to another model or optimizer")
        here = local(tensor)
        if not expected:
            here.copy_(source.read(name))
        elif here.numel():
            here.copy_(source.read(name).reshape(1) if is_scalar else source.read(name, *own_rows(tensor)))


def _group(folder: Path, layout: str, file: str) -> Any:
    return stored(folder / layout if (folder / layout).is_file() else folder / file)


def _groups(trained: Trained) -> dict[str, Mapping[str, Tensor]]:
    groups: dict[str, Mapping[str, Tensor]] = {"weights": trained.judged.backbone.state_dict()}
    if trained.ema is not None:
        groups["raw_weights"] = trained.module.towers.backbone.state_dict()
    groups["optimizer"] = optimizer_tensors(trained.module, trained.optimizer)
    objective = trained.module.objective.state_dict()
    return {**groups, "objective": objective} if objective else groups


def _held(tensors: Mapping[str, Tensor], shard: int) -> dict[str, Tensor]:
    """What stands in the file of a rank: its rows, and in that of the first what is not divided."""
    held = {name: local(tensor).detach() for name, tensor in tensors.items() if is_sharded(tensor) or not shard}
    return {name: tensor for name, tensor in held.items() if tensor.numel() or not is_sharded(tensors[name])}


def _fill_optimizer(trained: Trained, moments: Stored) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    targets: dict[str, Tensor] = {}
    for index, (name, parameter) in enumerate(named_trained(trained.module, trained.optimizer)):
        # Moments lie in memory as their parameter does, over the ranks as well.
        state[index] = {"step": torch.zeros(()), **{kind: torch.empty_like(parameter) for kind in MOMENTS}}
        targets |= {f"{kind}.{name}": tensor for kind, tensor in state[index].items()}
    fill_rows(targets, moments)
    trained.optimizer.load_state_dict({"state": state, "param_groups": trained.optimizer.state_dict()["param_groups"]})
