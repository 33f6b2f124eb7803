"""FSDP2 (Zhao et al. 2023; torch's `fully_shard`): weights, gradients and moments lie in parts over the ranks.

Each block of both towers is gathered when it runs and let go afterwards; what stands around the blocks is one more group.
torch is called directly and Accelerate wraps nothing: on CPUs its FSDP plugin is passed over in silence (measured with 1.15).
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.ops.shards import is_sharded
from mmclip.towers.two_tower import TwoTower

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mmclip.training.module import TrainingModule


@config
class ShardingConfig:
    """Whether each process holds the whole model or a part of it."""

    method: Literal["none", "fsdp2"] = "none"
    """none: every process holds all weights, gradients and moments (DDP). fsdp2: each holds its share of them."""
    replicas: int = 1
    """Copies of the model over all processes; within one, weights are gathered, between them, gradients are averaged (HSDP).
    The number of machines keeps gathers inside a machine."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UserError(f"sharding.replicas={self.replicas}: expected at least 1")
        if self.replicas > 1 and self.method == "none":
            raise UserError(f"sharding.replicas={self.replicas} is for sharding.method = 'fsdp2'")


def build_mesh(settings: ShardingConfig, device: torch.device, ranks: int) -> "DeviceMesh":
    """The processes of a run as replicas x shards.

    Raises:
        UserError: the replicas do not divide the processes.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if ranks % settings.replicas:
        raise UserError(f"sharding.replicas={settings.replicas} does not divide {ranks} processes")
    if settings.replicas == 1:
        return init_device_mesh(device.type, (ranks,), mesh_dim_names=("shard",))
    shape = (settings.replicas, ranks // settings.replicas)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replica", "shard"))


def shard(module: "TrainingModule", mesh: "DeviceMesh") -> None:
    """Shard what is trained, in place; afterwards `forward` and `encode` gather what they need.

    The optimizer has to be built afterwards: parameters are other tensors then.

    Raises:
        UserError: the model or the objective cannot be sharded.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    _refuse_unshardable(module)
    _register_outputs()
    shard_towers(module.towers, mesh, module)
    register_fsdp_forward_method(module, "encode")


def shard_towers(towers: TwoTower, mesh: "DeviceMesh", root: nn.Module | None = None) -> None:
    """Shard two towers block by block, and the rest of `root` as one group."""
    from torch.distributed.fsdp import fully_shard

    for block in _blocks(towers):
        fully_shard(block, mesh=mesh)
    fully_shard(towers if root is None else root, mesh=mesh)


def is_sharded_module(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return any(is_sharded(parameter) for parameter in module.parameters())


def _blocks(towers: TwoTower) -> list[nn.Module]:
    from mmclip.towers.blocks import blocks_of, image_tower, text_tower  # imports open_clip

    return [
        block for tower in (image_tower(towers.backbone), text_tower(towers.backbone)) for block in blocks_of(tower)
    ]


def _refuse_unshardable(module: "TrainingModule") -> None:
    from mmclip.towers.block import takes_rows
    from mmclip.towers.blocks import blocks_of, text_tower

    towers = module.towers
    if list(module.objective.parameters()):
        raise UserError(
            "sharding.method='fsdp2': this objective has learned parameters, which its loss reads outside of the towers' "
            "passes: expected an objective without heads, or sharding.method = 'none'"
        )
    if towers.moving_batch_norms():
        raise UserError(
            "sharding.method='fsdp2': this model has batch norms that learn their statistics, which is not proven to be right "
            "in parts: expected a tower without them, towers.rest_batch_norm = true, or sharding.method = 'none'"
        )
    by_group = all(map(takes_rows, blocks_of(text_tower(towers.backbone)))) and not towers.is_compiled
    if towers.trims_text and towers.settings.text_groups != 1 and not by_group:
        raise UserError(
            f"sharding.method='fsdp2' with towers.text_groups={towers.settings.text_groups!r}: this text tower runs its "
            "blocks once for each group, ranks have different numbers of groups, and their gathers would not meet: set "
            "towers.text_groups = 1"
        )
    owners: dict[nn.Parameter, nn.Module] = {}
    for block in [*_blocks(towers), module]:
        for parameter in block.parameters():
            if owners.setdefault(parameter, block) is not block and block is not module:
                raise UserError(
                    "sharding.method='fsdp2': blocks of this model share parameters, which two groups cannot gather: "
                    "expected sharding.method = 'none'"
                )


def _register_outputs() -> None:
    """Let torch find the tensors in what a pass returns: it hangs the gathers of the backward pass on them."""
    from torch.utils import _pytree

    known: Any = _pytree.SUPPORTED_NODES
    for kind in (TowerOutput, ObjectiveOutput):
        if kind not in known:
            _pytree.register_dataclass(kind)
