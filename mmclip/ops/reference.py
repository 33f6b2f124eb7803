"""The losses as they are defined, with every logit in memory and torch's own gradients: to read, and to test against.

On several ranks each rank computes the loss of the joined batch; the gathers carry the gradients back to the rows' owners.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.ops.gather import all_gather, gather
from mmclip.ops.pairs import ContrastiveLoss, Duplicates, agree
from mmclip.ops.tiles import without_autocast

Logits = Float[Tensor, "image text"]
Mask = Bool[Tensor, "image text"]


def infonce_reference(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    labels: PairLabels | None = None,
    duplicates: Duplicates = "positive",
    label_smoothing: float = 0.0,
) -> ContrastiveLoss:
    """`mmclip.ops.infonce.infonce`, for inputs of one precision."""
    with without_autocast(image_embed.device):
        logits = scale * gather(image_embed) @ gather(text_embed).T
        positive, valid = kinds(logits, labels, duplicates)
        per_image = soft_cross_entropy(logits, positive, valid, label_smoothing)
        per_text = soft_cross_entropy(logits.T, positive.T, valid.T, label_smoothing)
        return ContrastiveLoss((per_image + per_text) / 2, *by_products(logits, scale, positive, valid))


def sigmoid_reference(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    bias: Float[Tensor, "..."],
    labels: PairLabels | None = None,
    duplicates: Duplicates = "positive",
    label_smoothing: float = 0.0,
) -> ContrastiveLoss:
    """`mmclip.ops.sigmoid.sigmoid`, for inputs of one precision."""
    with without_autocast(image_embed.device):
        logits = scale * gather(image_embed) @ gather(text_embed).T
        positive, valid = kinds(logits, labels, duplicates)
        sign = 2 * positive.to(logits.dtype) - 1
        right, wrong = (-F.logsigmoid(direction * sign * (logits + bias)) for direction in (1, -1))
        terms = (1 - label_smoothing / 2) * right + label_smoothing / 2 * wrong
        loss = terms.masked_fill(~valid, 0).sum() / len(logits)
        return ContrastiveLoss(loss, *by_products(logits, scale, positive, valid))


def distill_reference(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    teacher_image_embed: Float[Tensor, "batch teacher_embed"],
    teacher_text_embed: Float[Tensor, "texts teacher_embed"],
    teacher_scale: Float[Tensor, "..."],
) -> Float[Tensor, ""]:
    """`mmclip.ops.distill.distill`, for inputs of one precision."""
    with without_autocast(image_embed.device):
        student = scale * gather(image_embed) @ gather(text_embed).T
        teacher = teacher_scale * all_gather(teacher_image_embed) @ all_gather(teacher_text_embed).T
        terms = [-(teacher.softmax(d) * student.log_softmax(d)).sum(d).mean() for d in (0, 1)]
        return (terms[0] + terms[1]) / 2


def kinds(logits: Logits, labels: PairLabels | None, duplicates: Duplicates) -> tuple[Mask, Mask]:
    """Which pairs are positives, and which are not left out."""
    if labels is None:
        own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        return own, torch.ones_like(own)
    found = agree(all_gather(labels.image), all_gather(labels.text))
    if duplicates == "positive":
        return found, torch.ones_like(found)
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    return own, own | ~found


def soft_cross_entropy(logits: Logits, positive: Mask, valid: Mask, label_smoothing: float) -> Float[Tensor, ""]:
    """Mean over the rows that have a positive of the cross-entropy with a target that is even over the positives.

    Smoothing moves a part of the target to all entries that are not left out, as `torch.nn.functional.cross_entropy` does.
    """
    log_softmax = logits.masked_fill(~valid, -torch.inf).log_softmax(1).masked_fill(~valid, 0)
    over_positives, over_all = (
        mask.to(logits.dtype) / mask.sum(1, keepdim=True).clamp(min=1) for mask in (positive, valid)
    )
    target = (1 - label_smoothing) * over_positives + label_smoothing * over_all
    terms, anchors = -(target * log_softmax).sum(1), positive.any(1)
    return torch.where(anchors, terms, 0).sum() / anchors.sum().clamp(min=1)


@torch.no_grad()
def by_products(
    logits: Logits, scale: Float[Tensor, "..."], positive: Mask, valid: Mask
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """In-batch top-1 and the mean similarities of the positives and of the negatives."""
    negative = valid & ~positive
    best_positive, best_negative = (logits.masked_fill(~mask, -torch.inf).amax(1) for mask in (positive, negative))
    similarity = logits / scale
    means = [torch.where(mask, similarity, 0).sum() / mask.sum() for mask in (positive, negative)]
    return (best_positive > best_negative).to(logits.dtype).mean(), means[0], means[1]
