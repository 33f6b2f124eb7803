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
        if not self.weight_decay >= 0:
            raise UserError(f"optimizer.weight_decay={self.weight_decay}: expected 0 or more, such as 0.2")
        if self.max_skipped_steps < 0:
            raise UserError(f"optimizer.max_skipped_steps={self.max_skipped_steps}: expected 0 or more")
        if not self.max_logit_scale >= 1:
            raise UserError(f"optimizer.max_logit_scale={self.max_logit_scale}: expected at least 1; CLIP has 100")


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
