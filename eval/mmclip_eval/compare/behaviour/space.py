"""The common space of pictures and texts: its scale, its gap, and whether what was stored of the old one can be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.change import Change
from mmclip_eval.compare.halves import mean_over_halves
from mmclip_eval.metrics.bootstrap import Counts, accuracy_interval, statistic_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.retrieval import chunked_first_hit_rank
from mmclip_eval.zero_shot import rank_and_predict


@dataclass(frozen=True)
class Space:
    """Of one set; texts are its captions, else its classes."""

    logit_scale: Change
    """The inverse temperature; of weights, not of samples: its interval is a point."""
    gap: Change
    """Distance between the mean picture and the mean text (Liang et al. 2022, "Mind the Gap", eq. 2)."""
    stored: Estimate | None
    """How often A's stored picture embeddings still get the right answer from B's texts: the first class or caption. None
    where the widths differ, and so nothing stored can be read."""


def space(a: Seen, b: Seen, against: Sequence[Seen] = ()) -> Space:
    """Compare two models' spaces over a set with classes or captions."""
    return Space(_scale_change(a, b, against), _gap_change(a, b, against), stored(a, b))


def stored(a: Seen, b: Seen) -> Estimate | None:
    """What is left of an index of A's pictures that is asked with B's texts."""
    if a.image_embed.shape[1] != b.image_embed.shape[1]:
        return None
    if b.class_embed is not None:
        labels = a.dataset.labelled.labels
        rank, _ = rank_and_predict(a.image_embed, labels, b.class_embed)
        chance = 1 / len(b.class_embed)
    else:
        assert b.caption_embed is not None
        images, owner = torch.arange(len(a.image_embed)), a.dataset.captioned.image_of_caption
        rank = chunked_first_hit_rank(a.image_embed, b.caption_embed, owner=owner, query=images)
        chance = 1 / len(images)
    hits = rank < 1
    return Estimate(float(hits.double().mean()), accuracy_interval(hits), chance)


def gap_of(seen: Seen) -> float:
    """The distance between the means of the two modalities."""
    return float((seen.image_embed.double().mean(dim=0) - _texts(seen).mean(dim=0)).norm())


def _texts(seen: Seen) -> Float[Tensor, "text embed"]:
    texts = seen.caption_embed if seen.caption_embed is not None else seen.class_embed
    assert texts is not None
    return texts.double()


def _scale_change(a: Seen, b: Seen, against: Sequence[Seen]) -> Change:
    far = [abs(one.logit_scale - a.logit_scale) for one in against]
    step = b.logit_scale - a.logit_scale
    return Change(a.logit_scale, b.logit_scale, step, step, 0.0, sum(far) / len(far) if far else None)


def _gap_change(a: Seen, b: Seen, against: Sequence[Seen]) -> Change:
    images = a.image_embed.double()
    texts = _texts(a).mean(dim=0)
    before = gap_of(a)
    far = [abs(gap_of(one) - before) for one in against]
    low, high = _gap_interval(a, b)
    return Change(
        before=before,
        after=gap_of(b),
        low=low,
        high=high,
        ceiling=mean_over_halves(
            len(images),
            lambda i, j: abs(float((images[i].mean(0) - texts).norm() - (images[j].mean(0) - texts).norm())),
            stream=4,
        ),
        floor=sum(far) / len(far) if far else None,
    )


def _gap_interval(a: Seen, b: Seen) -> tuple[float, float]:
    """Pictures are resampled, the texts are those that were asked."""
    sides = [(one.image_embed.double().numpy(), _texts(one).mean(dim=0).numpy()) for one in (a, b)]

    def difference(counts: Counts) -> NDArray[np.float64]:
        total = counts.sum(axis=1, keepdims=True)
        before, after = (np.linalg.norm(counts @ images / total - texts, axis=1) for images, texts in sides)
        return after - before

    return statistic_interval([len(a.image_embed)], difference)
