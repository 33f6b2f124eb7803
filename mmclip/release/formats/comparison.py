"""The fixed batch on which an export is compared with its source."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower

TOLERANCE = 1e-5
"""Largest difference between an embedding of ours and one of an export's own reader, both of length 1."""

CHECK_TEXTS = ("a cat", "two dogs on a red sofa", "RÉSUMÉ: 3,141 apples & pears!", "x")


def check_pictures() -> list[Image.Image]:
    """Four pictures of different shapes, the same on every machine."""
    noise = np.random.default_rng(0)
    shapes = ((64, 64), (48, 80), (90, 40), (224, 224))
    small = [noise.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8) for height, width in shapes]
    return [
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        for pixels, (height, width) in zip(small, shapes, strict=True)
    ]


def largest_difference(
    model: TwoTower, reader: str, image_embed: Float[Tensor, "query embed"], text_embed: Float[Tensor, "query embed"]
) -> float:
    """Compare what `reader` embeds of `check_pictures()` and `CHECK_TEXTS`, of length 1, with what `model` does.

    Raises:
        UserError: an embedding is not finite, or the largest difference is over `TOLERANCE`.
    """
    pairs = ((model.embed_images(check_pictures()), image_embed), (model.embed_texts(CHECK_TEXTS), text_embed))
    if not all(bool(torch.isfinite(ours).all()) for ours, _ in pairs):
        raise UserError("the weights give embeddings that are not finite: export an earlier checkpoint")
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    if not difference <= TOLERANCE:
        raise UserError(
            f"stock {reader} embeds differently by {difference:.3g}, over {TOLERANCE:g}; nothing was written. "
            "--no-verify writes it all the same"
        )
    return difference


def does_not_open(reader: str, error: Exception) -> UserError:
    """The message for an export that its own reader refuses."""
    reason = " ".join(str(error).split())[:300]
    return UserError(
        f"stock {reader} does not open the export ({type(error).__name__}: {reason}); nothing was written. "
        f"--no-verify writes it without asking {reader}"
    )
