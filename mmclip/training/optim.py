"""The optimizer and its parameter groups."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.towers.layers import image_depths, text_depths
from mmclip.towers.two_tower import TwoTower
from mmclip.training.module import TrainingModule


@config
class OptimizerConfig:
    """Fused AdamW (Loshchilov and Hutter, 2019), clipping and the clamp of the scale."""

    lr: float = 5e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.98
    """Decay of the gradient's square; CLIP's value for ViT."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.2
    """Decoupled decay of matrices and kernels; vectors and scalars never decay."""
    image_layer_decay: float = 1.0
    """Factor of the learning rate for each block farther from the top of the image tower (ELECTRA; BEiT); 1 is none."""
    text_layer_decay: float = 1.0
    """The same for the text tower."""
    max_grad_norm: float | None = 1.0
    """Clip the global L2 norm of the gradient here; leave out for none."""
    max_logit_scale: float = 100.0
    """Clamp of the inverse temperature after each step (CLIP, section 2.5)."""
    max_skipped_steps: int = 10
    """Steps that may be left out because a loss or a gradient is not finite; at one more the run stops."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < 10:
            raise UserError(
                f"optimizer.lr={self.lr}: expected a learning rate above 0 and below 10; AdamW takes 1e-5 to 5e-3"
            )
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise UserError(f"optimizer.{name}={value}: expected at least 0 and below 1, such as 0.9 and 0.98")
        for name, value in (("eps", self.eps), ("max_grad_norm", self.max_grad_norm)):
            if value is not None and not value > 0:
                raise UserError(f"optimizer.{name}={value}: expected a number above 0")
        for name in ("image_layer_decay", "text_layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)}: expected above 0, at most 1, such as 0.75")
        if not self.weight_decay >= 0:
            raise UserError(f"optimizer.weight_decay={self.weight_decay}: expected 0 or more, such as 0.2")
        if self.max_skipped_steps < 0:
            raise UserError(f"optimizer.max_skipped_steps={self.max_skipped_steps}: expected 0 or more")
        if not self.max_logit_scale >= 1:
            raise UserError(f"optimizer.max_logit_scale={self.max_logit_scale}: expected at least 1; CLIP has 100")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    scales: Mapping[str, float] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Groups of trained parameters: matrices and kernels decay; biases, norms and scalars do not.

    `scales` are factors of the learning rate by name, 1 where none is given; each factor has groups of its own, which hold
    it as `lr_scale`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, weight_decay): [], (1.0, 0.0): []}
    for name, parameter in parameters:
        if parameter.requires_grad:
            decay = weight_decay if parameter.dim() >= 2 else 0.0
            groups.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), members in groups.items()
        if members
    ]


def layer_scales(config: OptimizerConfig, towers: TwoTower, prefix: str = "towers.backbone.") -> dict[str, float]:
    """Factor of the learning rate of each parameter that layer-wise decay slows, by name behind `prefix`.

    Raises:
        UserError: a tower has no layers that are known by name.
    """
    scales: dict[str, float] = {}
    for decay, depths in ((config.image_layer_decay, image_depths), (config.text_layer_decay, text_depths)):
        if decay != 1:
            scales |= {prefix + name: decay**depth for name, depth in depths(towers.backbone).items()}
    return scales


def build_optimizer(config: OptimizerConfig, module: TrainingModule) -> torch.optim.AdamW:
    """Fused AdamW over the trained parameters of `module`."""
    groups = parameter_groups(module.named_parameters(), config.weight_decay, layer_scales(config, module.towers))
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
