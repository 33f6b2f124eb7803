"""What both models retrieve: how much of the best k is the same, and whether the right one is still found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmclip_data.features.encode import distinct_texts
from mmclip_eval.analysis.predictions import best_of_gallery
from mmclip_eval.compare.anchored import Anchored, floor_words
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.change import Change
from mmclip_eval.compare.halves import mean_over_halves, permuted
from mmclip_eval.metrics.bootstrap import ratio_interval
from mmclip_eval.metrics.retrieval import chunked_first_hit_rank

TOP = 10
"""How many of the best are compared: what a page of results shows."""
Way = Literal["text", "image"]
"""What is looked for: texts for a picture, or pictures for a text."""


@dataclass(frozen=True)
class Retrieved:
    """One way of retrieval, of a set with captions."""

    way: Way
    k: int
    overlap: Anchored
    """Mean share of the best `k` of A that are among the best `k` of B (Jaccard-free: both lists have k entries)."""
    recall: Change
    """Of the right one at the first place; a query is a picture (text) or a caption (image)."""
    lost: Int[Tensor, " lost"]
    """Pictures that were found first, or found their caption first, and do not any more; in the order of the set."""
    won: Int[Tensor, " won"]


def retrieved(way: Way, a: Seen, b: Seen, against: Sequence[Seen] = ()) -> Retrieved:
    """Compare what two models retrieve; both must have captions."""
    k = max(1, min(TOP, _gallery(a, way) // 4))  # most of a small gallery would be among the best of anybody
    lists = [_best(one, way, k) for one in (a, b)]
    shared = _shared(*lists)
    owner, samples = _owner(a, way), len(a.image_embed)
    trials = torch.bincount(owner, minlength=samples)
    low, high = ratio_interval(torch.bincount(owner, weights=shared.double(), minlength=samples).long(), k * trials)
    others = [_overlap(lists[0], _best(one, way, k)) for one in against]
    order = permuted(len(lists[0]))
    first = [_first(one, way) for one in (a, b)]
    steps = first[1].long() - first[0].long()
    return Retrieved(
        way=way,
        k=k,
        overlap=Anchored(
            value=_overlap(*lists),
            low=low,
            high=high,
            ceiling=_overlap(lists[0], lists[0]),
            floor=sum(others) / len(others) if others else _overlap(lists[0], lists[1][order]),
            floor_from=floor_words(len(others)),
        ),
        recall=_recall_change(way, a, first, steps, [_first(one, way) for one in against]),
        lost=_samples(owner, steps < 0),
        won=_samples(owner, steps > 0),
    )


def _recall_change(
    way: Way, a: Seen, first: Sequence[Bool[Tensor, " query"]], steps: Int[Tensor, " query"], others: Sequence[Tensor]
) -> Change:
    owner, samples = _owner(a, way), len(a.image_embed)
    low, high = ratio_interval(
        torch.bincount(owner, weights=steps.double(), minlength=samples).long(),
        torch.bincount(owner, minlength=samples),
    )
    before, after = (float(hits.double().mean()) for hits in first)
    share = first[0].double()
    far = [abs(float(hits.double().mean()) - before) for hits in others]
    return Change(
        before=before,
        after=after,
        low=low,
        high=high,
        ceiling=mean_over_halves(len(share), lambda i, j: abs(float(share[i].mean() - share[j].mean())), stream=2),
        floor=sum(far) / len(far) if far else None,
    )


def _owner(seen: Seen, way: Way) -> Int[Tensor, " query"]:
    """The sample that each query belongs to: intervals resample pictures, each with all its captions."""
    return torch.arange(len(seen.image_embed)) if way == "text" else seen.dataset.captioned.image_of_caption


def _gallery(seen: Seen, way: Way) -> int:
    return len(seen.image_embed) if way == "image" else len(set(seen.dataset.captioned.captions))


def _best(seen: Seen, way: Way, k: int) -> Int[Tensor, "query k"]:
    """Equal captions are one entry of the gallery: which of them comes first would be a matter of rounding."""
    queries, gallery = _sides(seen, way)
    return best_of_gallery(queries, gallery, k)[1]


def _sides(seen: Seen, way: Way) -> tuple[Float[Tensor, "query embed"], Float[Tensor, "gallery embed"]]:
    assert seen.caption_embed is not None
    if way == "image":
        return seen.caption_embed, seen.image_embed
    texts, place = distinct_texts(seen.dataset.captioned.captions)
    first = torch.full((len(texts),), len(place)).scatter_reduce(0, place, torch.arange(len(place)), "amin")
    return seen.image_embed, seen.caption_embed[first]


def _first(seen: Seen, way: Way) -> Bool[Tensor, " query"]:
    """Whether the right one comes first, strictly."""
    assert seen.caption_embed is not None
    images, owner = torch.arange(len(seen.image_embed)), seen.dataset.captioned.image_of_caption
    if way == "image":
        return chunked_first_hit_rank(seen.caption_embed, seen.image_embed, owner=images, query=owner) < 1
    return chunked_first_hit_rank(seen.image_embed, seen.caption_embed, owner=owner, query=images) < 1


def _shared(one: Int[Tensor, "query k"], other: Int[Tensor, "query k"]) -> Int[Tensor, " query"]:
    """How many entries both lists of a query hold."""
    return torch.cat([(x[:, :, None] == y[:, None, :]).sum(dim=(1, 2)) for x, y in _blocks(one, other)])


def _blocks(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(one.split(1 << 16), other.split(1 << 16), strict=True)


def _overlap(one: Int[Tensor, "query k"], other: Int[Tensor, "query k"]) -> float:
    return float(_shared(one, other).double().mean()) / one.shape[1]


def _samples(owner: Int[Tensor, " query"], chosen: Bool[Tensor, " query"]) -> Int[Tensor, " sample"]:
    return torch.unique(owner[chosen])
