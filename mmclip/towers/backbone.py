"""open_clip's module for a `model_cfg`, made ready for our encoders; its parameters keep their names."""

from copy import deepcopy
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from mmclip.errors import UserError
from mmclip.towers.block import take_rows
from mmclip.towers.own_keys import described_encoder, sized_tower, take_sizes


def build_backbone(model_cfg: dict[str, Any]) -> nn.Module:
    """Both towers with fresh weights.

    Raises:
        UserError: this open_clip cannot build them.
    """
    table = deepcopy(model_cfg)
    custom = table.pop("custom_text", False) or "hf_model_name" in table["text_cfg"]
    # The weights come from our files alone: neither timm nor transformers may reach for a hub here.
    if "timm_model_name" in table["vision_cfg"]:
        table["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in table["text_cfg"]:
        table["text_cfg"]["hf_model_pretrained"] = False
    # It would draw from the global generator, another mask for each layout and replay; see `patches.py`.
    table["vision_cfg"]["patch_dropout"] = 0.0
    table["nonscalar_logit_scale"] = True  # FSDP2 cannot shard a 0-d parameter
    table["vision_cfg"], sized = take_sizes(table["vision_cfg"])
    try:
        with described_encoder(table["text_cfg"]):
            backbone: Any = (CustomTextCLIP if custom else CLIP)(**table)
        if sized is not None:
            backbone.visual = sized_tower(sized)
        _follow_image_size(backbone.visual)
    except (TypeError, ValueError, RuntimeError, OSError, AssertionError, LookupError, ArithmeticError) as error:
        raise UserError(f"open_clip cannot build this model_cfg: {type(error).__name__}: {error}") from error
    take_rows(backbone)
    return backbone


def _follow_image_size(visual: Any) -> None:
    """A tower of timm is built for the size in its name; a folder saved at another size says so in `vision_cfg`."""
    trunk = getattr(visual, "trunk", None)
    built = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if built is not None and hasattr(trunk, "set_input_size") and tuple(built) != tuple(visual.image_size):
        visual.set_input_size(visual.image_size)


def is_channels_last(backbone: nn.Module) -> bool:
    """Whether convolutions hold their weights channels last, so that pictures should come so too."""
    weights = (p for p in backbone.parameters() if p.dim() == 4 and p.shape[2] > 1)
    first = next(weights, None)
    return first is not None and first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()
