"""Another picture size or context length for towers that have weights already, as for CLIPA and RECLIP."""

import math
from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.towers.patches import Grid


def resize_images(backbone: Any, size: Grid) -> dict[str, Tensor]:
    """Give the image tower another input size, its position embedding interpolated as open_clip does at loading.

    Returns the parameters that were replaced, by name, as they were.

    Raises:
        UserError: the tower is bound to its size, or the size does not fit its patches.
    """
    visual = backbone.visual
    if isinstance(visual, VisionTransformer):
        return _resize_vit(visual, size)
    if isinstance(visual, TimmModel):
        return _resize_timm(visual, size)
    kind = type(visual).__name__
    more = "; its attention pooling is bound to the size" if isinstance(visual, ModifiedResNet) else ""
    raise UserError(f"model.image_size={size[0]}: image towers of kind {kind} cannot change their size{more}")


def refuse_sizes(backbone: Any, sizes: Sequence[Grid]) -> None:
    """Refuse sizes that the image tower cannot take one after the other; the tower itself stays as it is.

    Raises:
        UserError: naming the first of them.
    """
    trial = SimpleNamespace(visual=deepcopy(backbone.visual))
    for size in sizes:
        resize_images(trial, size)


def image_grid(backbone: Any) -> Grid | None:
    """Rows and columns of patches that the image tower has positions for; None where it has no such grid."""
    visual = backbone.visual
    patches = (
        visual
        if isinstance(visual, VisionTransformer)
        else getattr(getattr(visual, "trunk", None), "patch_embed", None)
    )
    grid = getattr(patches, "grid_size", None)
    return (int(grid[0]), int(grid[1])) if grid is not None else None


def _resize_vit(visual: Any, size: Grid) -> dict[str, Tensor]:
    height, width = visual.patch_size
    if size[0] % height or size[1] % width:
        near = max(height, round(size[0] / height) * height)
        raise UserError(f"model.image_size={size[0]} is no multiple of the patch size {height}; nearest: {near}")
    grid = (size[0] // height, size[1] // width)
    before, grid_before = visual.positional_embedding, visual.grid_size
    visual.image_size, visual.grid_size = size, grid
    if grid == grid_before:
        return {}
    with torch.no_grad():
        after = torch.cat([before[:1], resized_grid(before[1:], grid_before, grid)])
    visual.positional_embedding = nn.Parameter(after, requires_grad=before.requires_grad)
    return {"visual.positional_embedding": before.detach()}


def _resize_timm(visual: Any, size: Grid) -> dict[str, Tensor]:
    before = dict(visual.named_parameters())
    learns = {name: tensor.requires_grad for name, tensor in before.items()}
    try:
        visual.set_input_size(size)
    except (AssertionError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        kind = type(visual.trunk).__name__
        raise UserError(f"model.image_size={size[0]}: timm's {kind} cannot take it: {error}") from error
    for name, tensor in visual.named_parameters():
        tensor.requires_grad_(learns[name])  # timm makes some anew, which would unlock them
    after = dict(visual.named_parameters())
    return {f"visual.{name}": tensor.detach() for name, tensor in before.items() if after[name] is not tensor}


def resized_grid(
    position: Float[Tensor, "patch width"], before: Grid, after: Grid
) -> Float[Tensor, "resized_patch width"]:
    """Bicubic and antialiased (open_clip's `resize_pos_embed`)."""
    picture = position.T.unflatten(1, before)[None]
    resized = F.interpolate(picture, size=after, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].flatten(1).T.contiguous()


def resize_context(backbone: Any, length: int) -> dict[str, Tensor]:
    """Give the text tower another context length, its position embedding interpolated as open_clip does at loading.

    Returns the parameters that were replaced, by name, as they were.

    Raises:
        UserError: the tower has fewer positions, or its class token stands in one of them.
    """
    prefix, tower = ("text.", backbone.text) if hasattr(backbone, "text") else ("", backbone)
    if isinstance(tower, HFTextEncoder):
        refuse_long_context(tower, length)
        return {}
    if getattr(tower, "cls_emb", None) is not None:
        raise UserError(f"model.context_length={length}: the text tower has a class token behind its last position")
    before = tower.positional_embedding
    with torch.no_grad():
        line = F.interpolate(before.T[None], size=length, mode="linear", align_corners=False)
    after = before if length == len(before) else nn.Parameter(line[0].T.contiguous(), before.requires_grad)
    tower.positional_embedding = after
    backbone.context_length = tower.context_length = length
    if hasattr(tower, "num_pos"):
        tower.num_pos = length
    if tower.attn_mask is not None:
        tower.attn_mask = torch.full_like(tower.attn_mask[:1, :1], -math.inf).repeat(length, length).triu_(1)
    return {} if after is before else {f"{prefix}positional_embedding": before.detach()}


def refuse_long_context(tower: Any, length: int) -> None:
    """Hugging Face encoders bring as many positions as they were trained with; some of them need none.

    Raises:
        UserError: there are fewer than `length`.
    """
    kind, positions = tower.config.model_type, getattr(tower.config, "max_position_embeddings", None)
    if positions is None or kind in ("mt5", "m2m_100"):  # relative, and computed
        return
    usable = positions - (tower.config.pad_token_id + 1 if "roberta" in kind else 0)
    if length > usable:
        raise UserError(f"model.context_length={length}: {kind} has {usable} positions; expected at most {usable}")
