"""The optimizer and its parameter groups."""

from collections.abc import Iterable

import torch
from torch import nn

from mmclip.config import config
from mmclip.errors import UserError


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
    max_grad_norm: float | None = 1.0
    """Clip the global L2 norm of the gradient here; leave out for none."""
    max_logit_scale: float = 100.0
    """Clamp of the inverse temperature after each step (CLIP, section 2.5)."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < 10:
            raise UserError(f"optimizer.lr={self.lr}: expected a learning rate above 0 and below 10")


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict]:
    """Two groups of trained parameters: matrices and kernels decay; biases, norms and scalars do not."""
    trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    decays = [parameter for _, parameter in trained if parameter.dim() >= 2]
    others = [parameter for _, parameter in trained if parameter.dim() < 2]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.AdamW:
    """Fused AdamW over the trained parameters of `module`."""
    groups = parameter_groups(module.named_parameters(), config.weight_decay)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
