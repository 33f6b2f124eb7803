import math
from itertools import combinations

import numpy as np
import pytest
import torch

from mmclip_eval.metrics import retrieval
from mmclip_eval.metrics.retrieval import (
    chance_median_rank,
    chance_recall,
    chunked_first_hit_rank,
    first_hit_rank,
    median_rank,
    recall_at_k,
)


def recall_by_sorting(similarity, owner, query, k):
    """The naive reading: sort each row, put entries of others first among equals, look at the first k."""
    hits = 0
    for row, own in zip(similarity.tolist(), query, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], owner[j] == own))
        hits += any(owner[j] == own for j in order[:k])
    return hits / len(query)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10, 100])
@pytest.mark.parametrize("levels", [3, 1000])
def test_recall_agrees_with_sorting_both_ways_with_and_without_ties(k, levels):
    generator = torch.Generator().manual_seed(levels)
    owner = torch.cat([torch.arange(12), torch.randint(12, (20,), generator=generator)])
    similarity = torch.randint(levels, (12, 32), generator=generator).float()
    images = torch.arange(12)
    assert recall_at_k(similarity, owner, k) == recall_by_sorting(similarity, owner.tolist(), images.tolist(), k)
    captions_first = recall_at_k(similarity.T, images, k, query=owner)
    assert captions_first == recall_by_sorting(similarity.T, images.tolist(), owner.tolist(), k)


def test_several_owned_entries_at_the_top_do_not_rank_against_each_other():
    similarity = torch.tensor([[0.9, 0.9, 0.1], [0.2, 0.1, 0.3]])
    assert first_hit_rank(similarity, torch.tensor([0, 0, 1])).tolist() == [0, 0]


def test_constant_similarity_scores_nothing_until_all_others_fit_in_k():
    similarity, owner = torch.zeros(4, 4), torch.arange(4)
    assert [recall_at_k(similarity, owner, k) for k in (1, 3, 4, 50)] == [0.0, 0.0, 1.0, 1.0]


def test_any_chunk_size_gives_the_ranks_of_the_whole_matrix(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    # Small integers: their products are exact, so that no rounding can differ between block shapes.
    captions = torch.randint(-3, 4, (23, 5), generator=generator).float()
    images = torch.randint(-3, 4, (9, 5), generator=generator).float()
    owner = torch.arange(23) % 9
    whole = first_hit_rank(captions @ images.T, torch.arange(9), owner)
    for elements in (1, 20, 100):
        monkeypatch.setattr(retrieval, "CHUNK_ELEMENTS", elements)
        assert torch.equal(chunked_first_hit_rank(captions, images, torch.arange(9), owner), whole)


def test_chance_is_the_share_of_all_draws_that_hold_an_owned_entry():
    owned, gallery, k = [1, 2, 4], 7, 3
    draws = list(combinations(range(gallery), k))
    expected = sum(sum(min(draw) < count for draw in draws) / len(draws) for count in owned) / len(owned)
    assert chance_recall(torch.tensor(owned), gallery, k) == pytest.approx(expected, abs=1e-12)
    assert chance_recall(torch.tensor(owned), gallery, 50) == 1.0


def test_similarity_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="non-finite"):
        recall_at_k(torch.tensor([[float("nan")]]), torch.tensor([0]), 1)


def test_a_query_that_owns_nothing_is_named():
    with pytest.raises(ValueError, match="query 1 owns no gallery entry"):
        recall_at_k(torch.zeros(2, 2), torch.tensor([0, 0]), 1)


@pytest.mark.parametrize(("owned", "gallery"), [([1], 4), ([1], 5), ([2, 2], 7), ([5, 1, 3], 11)])
def test_the_median_rank_of_chance_is_that_of_all_rankings(owned, gallery):
    # The place of the first of c hits among g is r in C(g - r, c - 1) of C(g, c) rankings.
    share = np.zeros(gallery)
    for c in owned:
        share += [math.comb(gallery - r, c - 1) / math.comb(gallery, c) / len(owned) for r in range(1, gallery + 1)]
    found = share.cumsum()
    expected = (np.argmax(found >= 0.5 - 1e-12) + np.argmax(found > 0.5 + 1e-12)) / 2 + 1
    assert chance_median_rank(torch.tensor(owned), gallery) == expected


def test_the_median_rank_lies_between_the_two_middle_places():
    assert median_rank(torch.tensor([0, 3, 1])) == 2
    assert median_rank(torch.tensor([0, 3, 1, 7])) == 3
    with pytest.raises(ValueError, match="no queries"):
        median_rank(torch.tensor([], dtype=torch.long))
