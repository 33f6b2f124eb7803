"""What the model would say of each picture, and which pictures it would say it of; never the whole matrix at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1 << 24
"""Entries of a similarity matrix held at a time."""


@dataclass(frozen=True)
class Predictions:
    """Per picture the likeliest classes, best first."""

    classes: Int[Tensor, "sample k"]
    probabilities: Float[Tensor, "sample k"]
    """Softmax over all classes of `logit_scale` times the cosine; a row sums to less than 1 where classes are left out."""


def predict(
    image_embed: Float[Tensor, "sample embed"],
    class_embed: Float[Tensor, "class embed"],
    logit_scale: float,
    k: int = 5,
) -> Predictions:
    """The `k` likeliest classes of every picture."""
    found = [_predict_block(block, class_embed, logit_scale, k) for block in _blocks(image_embed, len(class_embed))]
    classes, probabilities = zip(*found, strict=True)
    return Predictions(torch.cat(classes), torch.cat(probabilities))


def best_of_gallery(
    query_embed: Float[Tensor, "query embed"], gallery_embed: Float[Tensor, "gallery embed"], k: int
) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    """The `k` entries most like each query (all where there are fewer): their cosines, best first, and which they are."""
    k = min(k, len(gallery_embed))
    found = [(block @ gallery_embed.T).topk(k, dim=1) for block in _blocks(query_embed, len(gallery_embed))]
    return torch.cat([values for values, _ in found]), torch.cat([columns for _, columns in found])


def confident_mistakes(predictions: Predictions, labels: Int[Tensor, " sample"], count: int) -> list[int]:
    """Samples whose likeliest class is wrong, the surest first; ties stand in the order of the samples."""
    wrong = (predictions.classes[:, 0] != labels).nonzero()[:, 0]
    sureness = predictions.probabilities[wrong, 0]
    order = sureness.argsort(descending=True, stable=True)[:count]
    return wrong[order].tolist()


def _blocks(rows: Tensor, columns: int) -> tuple[Tensor, ...]:
    return rows.split(max(1, BLOCK // max(1, columns)))


def _predict_block(rows: Tensor, class_embed: Tensor, logit_scale: float, k: int) -> tuple[Tensor, Tensor]:
    logits = logit_scale * (rows @ class_embed.T)
    best, columns = logits.topk(min(k, logits.shape[1]), dim=1)
    return columns, (best - logits.logsumexp(dim=1, keepdim=True)).exp()
