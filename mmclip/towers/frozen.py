"""What of a locked tower never changes in a run, and the head behind it that may learn.

open_clip's adapters end in a projection that trains even where their tower is locked: `visual.head` behind timm's trunk, and
`text.proj` behind a pooled encoder of transformers. What comes out before it is a function of the picture or the caption alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from torch import nn

from mmclip.errors import UserError

TowerName = Literal["image", "text"]
NO_TOWER = ("logit_scale", "logit_bias")
"""Weights of a model that belong to neither tower."""
HEAD_KEYS = ("timm_proj", "timm_proj_bias", "timm_drop", "hf_proj_type")
"""Of an architecture's table: what says no more than which head there is."""


@dataclass(frozen=True)
class FrozenPart:
    """A tower, or all of it but its head; `features` are what comes out of it."""

    owns: Callable[[str], bool]
    """Whether a weight of this name in the backbone decides the features."""
    head: nn.Module | None
    """From features, not normalised, to embeddings; None where nothing learns: features then are L2-normalised embeddings."""
    width: int
    """Of the features."""


def frozen_part(backbone: Any, tower: TowerName, embed_dim: int) -> FrozenPart:
    """What of a tower stays as it is in this run.

    Raises:
        UserError: weights before the head learn; the first is named.
    """
    learns = [name for name, weight in backbone.named_parameters() if owner(name) == tower and weight.requires_grad]
    if not learns:
        return FrozenPart(lambda name: owner(name) == tower, None, embed_dim)
    head, prefix = _head(backbone, tower)
    others = [name for name in learns if head is None or not name.startswith(prefix)]
    if others:
        locked = "" if len(learns) > len(others) or head is not None else " although it is locked"
        raise UserError(
            f"{len(others)} weights of the {tower} tower learn{locked}, the first {others[0]}: features are computed once for "
            f"what never changes alone: lock it (towers.lock_{tower} = true, towers.unlocked_{tower}_groups = 0), or leave "
            f"{tower}_features out"
        )
    assert head is not None, "there is a weight of it"
    first = next(part for part in head.modules() if isinstance(part, nn.Linear))
    return FrozenPart(lambda name: owner(name) == tower and not name.startswith(prefix), head, first.in_features)


def owner(name: str) -> TowerName | None:
    """The tower of a weight of a backbone, by its name."""
    if name in NO_TOWER:
        return None
    return "image" if name.startswith("visual.") else "text"


def _head(backbone: Any, tower: TowerName) -> tuple[nn.Module | None, str]:
    """The projection behind what is pooled, where there is one apart, and the beginning of its weights' names."""
    if tower == "image":
        visual = backbone.visual
        apart = isinstance(visual, TimmModel) and not hasattr(visual.head, "pool")  # which reads patches
        return (visual.head if apart else None), "visual.head."
    text = getattr(backbone, "text", None)
    return (text.proj if isinstance(text, HFTextEncoder) else None), "text.proj."
