"""The blocks of any tower, for what is done block by block: compiling, and computing again in the backward pass."""

from collections.abc import Iterator
from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmclip.errors import UserError

STACKS = ("blocks", "resblocks", "layer", "block", "layers", "layer1", "layer2", "layer3", "layer4")
"""What open_clip, timm and transformers call a list of blocks."""


def image_tower(backbone: Any) -> nn.Module:
    """The part of a model that embeds pictures."""
    return backbone.visual


def text_tower(backbone: Any) -> nn.Module:
    """The part of a model that turns tokens into states; embeddings and projection of the flat class stand beside it."""
    return backbone.text if hasattr(backbone, "text") else backbone.transformer


def blocks_of(tower: nn.Module) -> list[nn.Module]:
    """The blocks of all stacks, from the input on; none where the tower has no stack that is known by name."""
    return list(_blocks_below(tower))


def _blocks_below(module: nn.Module) -> Iterator[nn.Module]:
    for name, part in module.named_children():
        if name in STACKS and isinstance(part, nn.ModuleList | nn.Sequential):
            for child in part:
                yield from _blocks_below(child) if hasattr(child, "blocks") else (child,)  # a stage of blocks is none
        else:
            yield from _blocks_below(part)


def why_not_recompute(tower: nn.Module) -> str | None:
    """Why a tower cannot drop its activations and compute them again; None where it can."""
    kind = type(getattr(tower, "trunk", tower)).__name__
    if isinstance(tower, ModifiedResNet):
        return f"open_clip's {kind} has no switch for it"
    trunk = tower.trunk if isinstance(tower, TimmModel) else tower
    parts = getattr(trunk, "blocks", trunk)
    norms = [name for name, part in parts.named_modules() if isinstance(part, _BatchNorm)]
    if norms:
        return f"{kind} has batch norms (first: {norms[0]}), whose statistics would move twice a step"
    if isinstance(tower, TimmModel) and not hasattr(trunk, "set_grad_checkpointing"):
        return f"timm's {kind} has no switch for it"
    return None


def recompute(tower: nn.Module) -> None:
    """Switch on what `Work.activation_checkpointing` does not reach: towers that run their blocks themselves.

    Raises:
        UserError: timm's model refuses.
    """
    if isinstance(tower, TimmModel):
        trunk: Any = tower.trunk
        try:
            trunk.set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise UserError(
                f"towers.activation_checkpointing: timm's {type(trunk).__name__} refuses: {error}"
            ) from error
    elif isinstance(tower, HFTextEncoder):
        transformer: Any = tower.transformer
        kind = "activation" if hasattr(transformer, "activation_checkpointing_enable") else "gradient"  # before 5.x
        enable = getattr(transformer, f"{kind}_checkpointing_enable")
        enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})
