import pytest
import torch

from mmclip_eval.metrics.selection import chance_selection, select


def winoground(scores):
    """Text, image and group score of one pair, spelled out as in the paper (Thrush et al., 2022, equations 1 to 3)."""
    (c0_i0, c1_i0), (c0_i1, c1_i1) = scores
    text = c0_i0 > c1_i0 and c1_i1 > c0_i1
    image = c0_i0 > c0_i1 and c1_i1 > c1_i0
    return text, image, text and image


def test_pairs_score_as_the_paper_defines():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(3, (300, 2, 2), generator=generator).float()  # few levels, so that many tie
    found = select(scores)
    figures = list(zip(found.text.tolist(), found.image.tolist(), found.both.tolist(), strict=True))
    assert figures == [winoground(instance) for instance in scores.tolist()]
    assert len(set(figures)) == 4


def test_one_picture_and_two_captions_count_the_strictly_better_caption():
    found = select(torch.tensor([[[0.6, 0.4]], [[0.4, 0.6]], [[0.5, 0.5]]]))
    assert found.text.tolist() == [True, False, False]
    assert found.image.tolist() == [True, True, True]
    assert found.both.tolist() == [True, False, False]


def test_a_constant_score_wins_nothing_that_has_a_rival():
    found = select(torch.zeros(4, 2, 2))
    assert not found.text.any()
    assert not found.image.any()


@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (1, 5), (3, 3), (2, 4), (3, 2)])
def test_chance_is_what_random_scores_are_worth(shape):
    scores = torch.rand(200_000, *shape, generator=torch.Generator().manual_seed(1))
    found = select(scores)
    means = [float(side.float().mean()) for side in (found.text, found.image, found.both)]
    assert means == pytest.approx(chance_selection(*shape), abs=0.004)


def test_chance_of_winoground_is_the_published_one():
    assert chance_selection(2, 2) == pytest.approx((1 / 4, 1 / 4, 1 / 6), abs=1e-12)


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="non-finite"):
        select(torch.full((1, 1, 2), float("nan")))
    with pytest.raises(ValueError, match="no instances"):
        select(torch.zeros(0, 1, 2))
