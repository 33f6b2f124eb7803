import pytest
from scipy.stats import binomtest

from mmclip_eval.metrics.wilson import wilson_interval


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 40), (3, 7), (40, 40), (1234, 5000)])
def test_it_is_scipys(hits: int, trials: int):
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(hits: int, trials: int):
    with pytest.raises(ValueError, match="expected at least one trial"):
        wilson_interval(hits, trials)


def test_the_share_lies_inside_where_all_or_none_hit():
    assert all(wilson_interval(trials, trials)[1] == 1.0 for trials in range(1, 2000))
    assert all(wilson_interval(0, trials)[0] == 0.0 for trials in range(1, 2000))
