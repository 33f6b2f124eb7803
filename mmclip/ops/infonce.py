"""Symmetric InfoNCE (CLIP, Radford et al. 2021, figure 3; equation 1 of ConVIRT with one temperature)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.ops.gather import gather, rank


def infonce(
    image_embed: Float[Tensor, "batch embed"], text_embed: Float[Tensor, "batch embed"], scale: Float[Tensor, "1"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """This rank's part of the loss over the global batch times the number of ranks, and its in-batch top-1 accuracy.

    Rows are L2-normalised; row i of both tensors is a pair and all other rows of all ranks are negatives. Averaged over
    ranks, value and gradients (of embeddings and of `scale`) are those of one process on the joined batch. The logits
    are accumulated in the precision of the embeddings, outside autocast.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        per_image = scale * image_embed @ gather(text_embed).T
        per_text = scale * text_embed @ gather(image_embed).T
        rows = len(image_embed)
        own = torch.arange(rows, device=image_embed.device) + rank() * rows
        loss = (F.cross_entropy(per_image, own) + F.cross_entropy(per_text, own)) / 2
        # `cross_entropy` averages over this rank's rows: the sum over the global batch, divided by it, times the ranks.
        return loss, (per_image.detach().argmax(dim=1) == own).to(loss.dtype).mean()


def infonce_reference(
    image_embed: Float[Tensor, "batch embed"], text_embed: Float[Tensor, "batch embed"], scale: Float[Tensor, "1"]
) -> Float[Tensor, ""]:
    """The definition, one pair at a time, in one process: the oracle of the tests."""
    logits = scale * image_embed @ text_embed.T
    pairs = range(len(logits))
    image_to_text = [torch.logsumexp(logits[i], dim=0) - logits[i, i] for i in pairs]
    text_to_image = [torch.logsumexp(logits[:, i], dim=0) - logits[i, i] for i in pairs]
    return torch.stack(image_to_text + text_to_image).sum() / (2 * len(logits))
