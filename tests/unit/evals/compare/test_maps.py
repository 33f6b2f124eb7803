"""Maps of two models over the same pictures."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.compare.clusters import (
    adjusted_mutual_information,
    adjusted_rand,
    agreement,
    by_size,
    criterion,
    k_means,
    mixture,
    renumbered,
)
from mmclip_eval.compare.map_cards import map_cards
from mmclip_eval.compare.maps import TwinMaps, aligned, twin_maps
from mmclip_eval.sparse.units import Texts

GROUPS = 6


def clouds(rows: int = 240, width: int = 12, seed: int = 0) -> torch.Tensor:
    """Pictures of six kinds, far apart, in turn."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.eye(width)[:GROUPS]
    return centres[torch.arange(rows) % GROUPS] + 0.3 * torch.randn(rows, width, generator=generator)


@pytest.fixture(scope="module")
def same() -> TwinMaps:
    rows = clouds()
    texts = Texts(torch.eye(12)[:GROUPS] * 2 + 7, tuple(f"kind {number}" for number in range(GROUPS)))
    return twin_maps(rows, rows.clone(), texts, texts)


def test_the_same_weights_agree_wholly_and_lie_on_each_other(same: TwinMaps):
    assert same.likeness == pytest.approx(1)
    assert torch.allclose(same.a, same.b, atol=1e-5)
    for one in same.groupings:
        assert (one.rand.value, one.information.value) == pytest.approx((1, 1))
        assert one.rand.position == 1
        assert abs(one.rand.floor) < 0.05
        assert one.rand.ceiling == pytest.approx(1)  # clouds so far apart are found again from any beginning
        assert torch.equal(one.a, one.b)


def test_a_turned_and_mirrored_model_is_the_same_map():
    rows = clouds()
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    found = twin_maps(rows, 5 * rows @ turn + 3)
    assert found.likeness == pytest.approx(1, abs=1e-5)
    assert torch.allclose(found.b, 5 * found.a, atol=1e-3)
    assert all(one.rand.value == pytest.approx(1) for one in found.groupings)


def test_permuted_pictures_agree_no_more_than_chance():
    rows = clouds()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    found = twin_maps(rows, rows[order])
    for one in found.groupings:
        for figure in (one.rand, one.information):
            assert abs(figure.value) < 0.06
            assert figure.position < 0.06
    assert found.likeness < 0.2


def test_clusters_bear_the_texts_nearest_to_their_centre(same: TwinMaps):
    by_k_means = same.groupings[0]
    kind_of = torch.tensor(same.samples) % GROUPS
    for number, name in enumerate(by_k_means.names_a):
        (kind,) = kind_of[by_k_means.a == number].unique().tolist()
        assert name == f"kind {kind}"
    assert twin_maps(clouds(), clouds()).groupings[0].names_b[0] == "group 1"


def test_the_criterion_is_lowest_at_the_number_of_clouds():
    values = criterion(clouds()[:, :GROUPS].double().numpy(), 8)
    assert [count for count, _ in values] == list(range(1, 9))
    assert min(values, key=lambda pair: pair[1])[0] == GROUPS
    assert all(after[1] < before[1] for before, after in pairwise(values[:GROUPS]))


@pytest.mark.parametrize("group", [k_means(GROUPS), mixture(GROUPS)], ids=["k-means", "mixture"])
def test_clouds_that_lie_apart_are_the_groups(group):
    labels = group(clouds().double().numpy(), 0)
    kinds = np.arange(240) % GROUPS
    assert adjusted_rand(labels, kinds) == pytest.approx(1)


def test_the_adjusted_rand_index_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    b[:20] = a[:20]
    counts = np.zeros((3, 4))
    for i, j in zip(a, b, strict=True):
        counts[i, j] += 1

    def pairs(values) -> int:
        return sum(math.comb(int(value), 2) for value in values)

    both, of_a, of_b = pairs(counts.ravel()), pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    expected = of_a * of_b / math.comb(40, 2)
    assert adjusted_rand(a, b) == pytest.approx((both - expected) / ((of_a + of_b) / 2 - expected))


def test_agreement_stands_between_floor_and_ceiling():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 400)
    some = np.where(rng.random(400) < 0.5, a, rng.integers(0, 4, 400))
    again = np.where(rng.random(400) < 0.9, a, rng.integers(0, 4, 400))
    for score in (adjusted_rand, adjusted_mutual_information):
        found = agreement(score, a, some, [again])
        assert abs(found.floor) < 0.02
        assert found.floor < found.low < found.value < found.high < found.ceiling
        assert found.position == pytest.approx((found.value - found.floor) / (found.ceiling - found.floor))


def test_groups_are_numbered_by_size_and_then_like_their_partners():
    assert by_size(np.array([7, 2, 2, 5, 5, 5])).tolist() == [2, 1, 1, 0, 0, 0]
    like = np.array([0, 0, 0, 1, 1, 2])
    assert renumbered(np.array([2, 2, 2, 0, 0, 1]), like).tolist() == like.tolist()
    assert renumbered(np.array([0, 0, 0, 1, 1, 1]), like).tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(set(renumbered(np.array([0, 1, 2, 3, 3, 3]), like).tolist())) == [0, 1, 2, 3]


def test_the_turn_is_found_and_the_correlation_with_it():
    points = np.random.default_rng(0).standard_normal((50, 2))
    angle = 1.1
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ np.diag([1, -1])
    turned, likeness = aligned(points, 2 * points @ turn + 4)
    assert likeness == pytest.approx(1)
    assert np.allclose(turned, 2 * (points - points.mean(axis=0)))


def test_the_maps_are_the_same_again_and_strict_json(same: TwinMaps):
    rows = clouds()
    again = twin_maps(rows, rows.clone())
    assert torch.equal(again.b, same.b)
    told = json.loads(json.dumps(same.to_json(), allow_nan=False))
    assert told["groupings"][0]["adjusted_rand_index"]["value"] == pytest.approx(1)
    assert len(told["bayesian_information_criterion"]["b"]) == 8


def test_both_maps_stand_side_by_side_in_one_card(same: TwinMaps):
    cards = map_cards(same, ("old", "new"))
    assert [card.svg.count("<svg") for card in cards] == [2, 2, 2, 1, 1]
    assert [card.wide for card in cards] == [True, True, True, False, False]
    assert "A: old" in cards[0].svg
    assert "B: new" in cards[0].svg
    assert "kind 3" in cards[0].svg
    assert "Adjusted Rand index 1.00 (1.00 to 1.00); A again 1.00, permuted pictures 0.0" in cards[1].caption
    assert "6 describe A best and 6 describe B" in cards[4].caption


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (clouds(), clouds()[1:], "240 pictures of A and 239 of B"),
        (clouds()[:15], clouds()[:15], "15 pictures: a map needs 16 at least"),
        (clouds(), torch.ones(240, 4), "B gives all 240 pictures one embedding"),
    ],
)
def test_what_has_no_map_is_refused(a, b, said):
    with pytest.raises(UserError, match=said):
        twin_maps(a, b)
