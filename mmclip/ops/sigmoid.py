"""Pairwise sigmoid loss (SigLIP, Zhai et al. 2023, algorithm 1)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.gather import gather, rank


def sigmoid_loss(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "batch embed"],
    scale: Float[Tensor, "1"],
    bias: Float[Tensor, "1"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """This rank's part of the loss over the global batch times the number of ranks, and its in-batch top-1 accuracy.

    Every pair of an own image and any text is a binary decision: positive on the diagonal, negative elsewhere. The sum
    is divided by the number of images, not of pairs, as in the paper. Averaged over ranks, value and gradients are
    those of one process on the joined batch.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        logits = scale * image_embed @ gather(text_embed).T + bias
        rows = len(image_embed)
        sign = torch.full_like(logits, -1.0)
        row = torch.arange(rows, device=logits.device)
        own = row + rank() * rows
        sign[row, own] = 1.0
        loss = -F.logsigmoid(sign * logits).sum() / rows
        return loss, (logits.detach().argmax(dim=1) == own).to(loss.dtype).mean()


def sigmoid_reference(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "batch embed"],
    scale: Float[Tensor, "1"],
    bias: Float[Tensor, "1"],
) -> Float[Tensor, ""]:
    """The definition, one pair at a time, in one process: the oracle of the tests."""
    total = torch.zeros((), dtype=image_embed.dtype)
    for i, image in enumerate(image_embed):
        for j, text in enumerate(text_embed):
            label = 1.0 if i == j else -1.0
            total = total + torch.log1p(torch.exp(-label * (scale[0] * torch.dot(image, text) + bias[0])))
    return total / len(image_embed)
