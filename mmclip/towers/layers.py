"""How far each parameter is from the top of its tower, in blocks: what layer-wise decay of the learning rate goes by."""

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models import group_parameters
from torch import nn

from mmclip.errors import UserError
from mmclip.towers.blocks import blocks_of, image_tower, text_tower

STEM = (
    "conv1",
    "conv2",
    "conv3",
    "bn1",
    "bn2",
    "bn3",
    "class_embedding",
    "positional_embedding",
    "ln_pre",
    "embed",
    "cls_emb",
)
"""What stands before the first block, by the words in its name; what is neither in a block nor here stands behind the last."""


def image_depths(backbone: Any) -> dict[str, int]:
    """Blocks between each parameter of the image tower and its top: 0 for projection and last norm, 1 for the last block.

    The trunk of a timm tower is divided as timm divides it, below the head of open_clip.

    Raises:
        UserError: the tower has no blocks that are known by name.
    """
    tower = image_tower(backbone)
    if not isinstance(tower, TimmModel):
        return _depths(tower, "visual.", "optimizer.image_layer_decay")
    trunk: Any = tower.trunk
    if not hasattr(trunk, "group_matcher"):
        raise UserError(f"optimizer.image_layer_decay: timm's {type(trunk).__name__} names no layers: leave it out")
    groups = group_parameters(trunk, trunk.group_matcher())
    top = max(groups)
    depths = {f"visual.{name}": 0 for name, _ in tower.named_parameters()}  # the head above the trunk
    return depths | {f"visual.trunk.{name}": top - layer + 1 for layer, names in groups.items() for name in names}


def text_depths(backbone: Any) -> dict[str, int]:
    """The same for the text tower, the embeddings that the flat class keeps beside it included.

    Raises:
        UserError: as above.
    """
    where = "optimizer.text_layer_decay"
    if hasattr(backbone, "text"):
        return _depths(text_tower(backbone), "text.", where)
    blocks = _depths(backbone.transformer, "transformer.", where)
    top = max(blocks.values())
    parts = ("token_embedding.", "positional_embedding", "ln_final.", "text_projection")
    own = [name for name, _ in backbone.named_parameters() if name.startswith(parts)]
    return blocks | {name: top + 1 if "embedding" in name else 0 for name in own}


def _depths(tower: nn.Module, prefix: str, where: str) -> dict[str, int]:
    blocks = blocks_of(tower)
    if not blocks:
        raise UserError(f"{where}: {type(tower).__name__} has no blocks that are known by name: leave it out")
    depth_of = {
        parameter: len(blocks) - number for number, block in enumerate(blocks) for parameter in block.parameters()
    }
    found = {}
    for name, parameter in tower.named_parameters():
        is_stem = any(word in name for word in STEM)
        found[prefix + name] = depth_of.get(parameter, len(blocks) + 1 if is_stem else 0)
    return found
