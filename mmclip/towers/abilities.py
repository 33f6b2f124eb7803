"""What the two towers of a model can do; where they cannot, the reason in words."""

from dataclasses import dataclass
from typing import Any

from mmclip.errors import UserError
from mmclip.towers.blocks import blocks_of, image_tower, text_tower, why_not_recompute
from mmclip.towers.image_features import ImageEncoder
from mmclip.towers.settings import TowersConfig
from mmclip.towers.text import TextEncoder


@dataclass(frozen=True)
class TowerAbilities:
    """None where the towers can, else why not; nothing here changes an embedding but `patch_dropout`."""

    text_groups: str | None
    """Captions are cut and run in groups of like length."""
    pooled_image_block: str | None
    """The last block of the image tower computes the pooled token alone."""
    pooled_text_block: str | None
    """The last block of the text tower computes the pooled token alone."""
    patch_dropout: str | None
    """Training drops patches before they are embedded."""
    recompute_image: str | None
    """The image tower computes its activations again in the backward pass."""
    recompute_text: str | None
    """The text tower does."""
    compile_image: str | None
    """The blocks of the image tower are compiled."""
    compile_text: str | None
    """The blocks of the text tower are compiled."""
    patch_tokens: str | None
    """The image tower gives features of single patches, also where some of them are masked."""
    small_crops: str | None
    """The image tower takes pictures of other sizes than its own beside those of its own."""


def abilities(backbone: Any, image: ImageEncoder, text: TextEncoder) -> TowerAbilities:
    """Of a model and its encoders."""
    towers = {"image": image_tower(backbone), "text": text_tower(backbone)}
    unknown = {
        name: None if blocks_of(tower) else f"no blocks are known in the {name} tower ({type(tower).__name__})"
        for name, tower in towers.items()
    }
    return TowerAbilities(
        text_groups=text.why_padded,
        pooled_image_block=image.why_whole_last_block,
        pooled_text_block=text.why_whole_last_block,
        patch_dropout=image.why_all_patches,
        recompute_image=why_not_recompute(towers["image"]),
        recompute_text=why_not_recompute(towers["text"]),
        compile_image=unknown["image"],
        compile_text=unknown["text"],
        patch_tokens=image.why_no_tokens or image.why_all_patches,
        small_crops=image.why_one_size,
    )


def refuse_impossible(settings: TowersConfig, can: TowerAbilities, patch_dropout: float) -> None:
    """Refuse what was asked for and cannot be done; what is `auto` is left out in silence.

    Raises:
        UserError: naming the field and the reason.
    """
    wanted = {
        f"text_groups={settings.text_groups}": settings.text_groups not in ("auto", 1) and can.text_groups,
        'pooled_last_block="on"': settings.pooled_last_block == "on"
        and (can.pooled_image_block or can.pooled_text_block),
        f"patch_dropout={patch_dropout}": patch_dropout and can.patch_dropout,
        "activation_checkpointing=true": settings.activation_checkpointing
        and (can.recompute_image or can.recompute_text),
        "compile=true": settings.compile and (can.compile_image or can.compile_text),
    }
    refused = [f"towers.{name}: {reason}" for name, reason in wanted.items() if reason]
    if refused:
        raise UserError("; ".join(refused))
