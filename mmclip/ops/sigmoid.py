"""Pairwise sigmoid loss (SigLIP, Zhai et al. 2023, algorithm 1)."""

from jaxtyping import Float
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.ops.infonce import Implementation, check_smoothing
from mmclip.ops.pairs import ContrastiveLoss, Duplicates, pairs_of
from mmclip.ops.reference import sigmoid_reference
from mmclip.ops.sigmoid_tiled import Problem, sigmoid_tiled
from mmclip.ops.tiles import compute_dtype, tile_size


def sigmoid(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    bias: Float[Tensor, "..."],
    *,
    labels: PairLabels | None = None,
    duplicates: Duplicates = "positive",
    label_smoothing: float = 0.0,
    implementation: Implementation = "auto",
    tile: int | None = None,
) -> ContrastiveLoss:
    """This rank's part of the loss over the global batch times the number of ranks, and its by-products.

    Every pair of an image and any text is a binary decision: positive at the image's own place (or where `labels` agree,
    see `mmclip.ops.infonce.infonce`, which the other arguments follow too), negative elsewhere. The sum is divided by the
    number of images, not of pairs, as in the paper. Smoothing is that of a cross-entropy over the two classes: half of it
    goes to the wrong one.

    Raises:
        UserError: the shapes, the labels or an option do not fit.
    """
    check_smoothing(label_smoothing)
    pairs = pairs_of(len(image_embed), len(text_embed), labels, duplicates)
    dtype = compute_dtype(image_embed, text_embed, scale, bias)
    image, text, factor, offset = (tensor.to(dtype) for tensor in (image_embed, text_embed, scale, bias))
    if implementation == "reference":
        return sigmoid_reference(image, text, factor, offset, labels, duplicates, label_smoothing)
    problem = Problem(pairs, label_smoothing, tile_size(dtype, image.device, tile))
    return sigmoid_tiled(image, text, factor, offset, problem)
