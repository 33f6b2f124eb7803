"""Zero-shot retrieval both ways, with any number of captions a picture."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.metrics.bootstrap import median_interval, ratio_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.retrieval import chance_median_rank, chance_recall, chunked_first_hit_rank, median_rank

RECALL_AT = (1, 5, 10)


def zero_shot_retrieval(
    image_embed: Float[Tensor, "image embed"],
    text_embed: Float[Tensor, "caption embed"],
    image_of_caption: Int[Tensor, " caption"],
    recall_at: Sequence[int] = RECALL_AT,
) -> Iterator[tuple[str, Estimate]]:
    """Yield `image_retrieval_recall@k` (a caption looks for its picture), `text_retrieval_recall@k` and the median ranks.

    The first is a mean over captions; the second counts a picture once any of its captions is among the `k` best.
    Intervals resample pictures, each with all its captions.

    Raises:
        ValueError: a picture has no caption.
    """
    images = torch.arange(image_embed.shape[0])
    captions = torch.bincount(image_of_caption, minlength=len(images))
    caption_rank = chunked_first_hit_rank(text_embed, image_embed, owner=images, query=image_of_caption)
    image_rank = chunked_first_hit_rank(image_embed, text_embed, owner=image_of_caption, query=images)
    one = torch.ones_like(captions)
    for k in recall_at:
        hits = torch.bincount(image_of_caption, weights=(caption_rank < k).double(), minlength=len(images)).long()
        yield f"image_retrieval_recall@{k}", _estimate(hits, captions, chance_recall(one, len(images), k))
    for k in recall_at:
        chance = chance_recall(captions, int(captions.sum()), k)
        yield f"text_retrieval_recall@{k}", _estimate((image_rank < k).long(), one, chance)
    yield "image_retrieval_median_rank", _median(caption_rank, image_of_caption, chance_median_rank(one, len(images)))
    chance = chance_median_rank(captions, int(captions.sum()))
    yield "text_retrieval_median_rank", _median(image_rank, images, chance)


def _estimate(hits: Tensor, trials: Tensor, chance: float) -> Estimate:
    value = int(hits.sum()) / int(trials.sum())
    return Estimate(value, ratio_interval(hits, trials), chance)


def _median(first_hit: Tensor, owner: Tensor, chance: float) -> Estimate:
    interval = median_interval(first_hit + 1, owner)
    return Estimate(median_rank(first_hit), interval, chance, unit="rank", lower_is_better=True)
