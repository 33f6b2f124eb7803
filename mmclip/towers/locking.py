"""Locked towers (LiT, Zhai et al. 2022), with open_clip's grouping of what stays unlocked."""

from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, lock_text_tower
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmclip.errors import UserError
from mmclip.towers.blocks import blocks_of


def lock_image(backbone: Any, unlocked_groups: int) -> None:
    """Leave the last groups trainable: of a ViT projection, last block with its norm, then block by block, then the stem.

    As in open_clip, the head of a timm tower always trains, and its groups are those that timm names.

    Raises:
        UserError: the tower has no groups.
    """
    visual = backbone.visual
    if isinstance(visual, ModifiedResNet) and unlocked_groups:
        raise UserError(
            f"towers.unlocked_image_groups={unlocked_groups}: open_clip's ModifiedResNet is locked whole or not at all; "
            "set it to 0"
        )
    if not (isinstance(visual, TimmModel) and unlocked_groups):
        visual.lock(unlocked_groups=unlocked_groups)
        return
    trunk: Any = visual.trunk
    groups = group_parameters(trunk, trunk.group_matcher())
    for group in range(max(groups) - unlocked_groups + 1):
        for name in groups[group]:
            trunk.get_parameter(name).requires_grad = False


def lock_text(backbone: Any, unlocked_groups: int) -> None:
    """Leave the last groups trainable: projection, last block with the final norm, then block by block, then embeddings.

    As in open_clip, projection and pooler of a Hugging Face tower always train, and its groups are its layers.

    Raises:
        UserError: the tower is of another kind.
    """
    tower = getattr(backbone, "text", backbone)
    if isinstance(tower, HFTextEncoder):
        transformer: Any = tower.transformer
        if unlocked_groups == 0:
            transformer.requires_grad_(False)
            return
        embeddings = [part for name, part in transformer.named_children() if "embed" in name]
        locked = [embeddings, *([block] for block in blocks_of(transformer))][:-unlocked_groups]
        for part in (part for group in locked for part in group):
            part.requires_grad_(False)
    elif tower is backbone or isinstance(tower, TextTransformer):
        lock_text_tower(backbone, unlocked_groups)
    else:
        raise UserError(f"towers.lock_text: text towers of kind {type(tower).__name__} cannot be locked")


def locked_parts(backbone: nn.Module) -> list[nn.Module]:
    """The largest modules that hold weights of which none trains."""
    found: list[nn.Module] = []
    for part in backbone.children():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            found.append(part)
        elif weights:
            found += locked_parts(part)
    return found


def rest(part: nn.Module, batch_norm: bool) -> None:
    """Evaluation mode for a locked part: no dropout, and with `batch_norm` no moving statistics."""
    moving = [norm for norm in part.modules() if isinstance(norm, _BatchNorm) and norm.training]
    part.eval()
    if not batch_norm:
        for norm in moving:
            norm.train()
