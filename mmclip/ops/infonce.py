"""Symmetric InfoNCE (CLIP, Radford et al. 2021, figure 3; equation 1 of ConVIRT with one temperature)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.errors import UserError
from mmclip.ops.infonce_tiled import Problem, infonce_tiled
from mmclip.ops.pairs import ContrastiveLoss, Duplicates, pairs_of
from mmclip.ops.reference import infonce_reference
from mmclip.ops.tiles import compute_dtype, tile_size

Implementation = Literal["auto", "reference", "tiled"]
"""`reference` holds all logits, `tiled` one tile of them; `auto` is `tiled`."""


def infonce(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    *,
    labels: PairLabels | None = None,
    duplicates: Duplicates = "positive",
    label_smoothing: float = 0.0,
    implementation: Implementation = "auto",
    tile: int | None = None,
) -> ContrastiveLoss:
    """This rank's part of the loss over the global batch times the number of ranks, and its by-products.

    Rows are L2-normalised. Row i of both tensors is a pair and all other rows of all ranks are negatives, unless `labels`
    (their text rows like `text_embed`'s) say otherwise: then `duplicates` says what an agreeing pair is, and a row without
    any positive has no term. Averaged over ranks, value and gradients (of the embeddings and of `scale`, which has one
    element) are those of one process on the joined batch. Logits and sums are fp32, or fp64 where an input is, whatever
    the precision of the embeddings and under autocast too.

    `label_smoothing` is that of `torch.nn.functional.cross_entropy`. `tile` is the side of a tile in rows; the default fits
    the cache of a core, or half a GiB of a device.

    Raises:
        UserError: the shapes, the labels or an option do not fit.
    """
    check_smoothing(label_smoothing)
    pairs = pairs_of(len(image_embed), len(text_embed), labels, duplicates)
    dtype = compute_dtype(image_embed, text_embed, scale)
    image, text, factor = image_embed.to(dtype), text_embed.to(dtype), scale.to(dtype)
    if implementation == "reference":
        return infonce_reference(image, text, factor, labels, duplicates, label_smoothing)
    return infonce_tiled(image, text, factor, Problem(pairs, label_smoothing, tile_size(dtype, image.device, tile)))


def check_smoothing(label_smoothing: float) -> None:
    """Refuse what is no share of a target.

    Raises:
        UserError: it is not at least 0 and at most 1.
    """
    if not 0 <= label_smoothing <= 1:
        raise UserError(f"label_smoothing={label_smoothing}: expected at least 0 and at most 1, such as 0.1")
