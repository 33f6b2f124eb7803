import numpy as np
import pytest

from mmclip.randomness import Stream, integer, permutation, step_seed, uniform, words


def philox4x64(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x64-10 written out from Salmon et al. 2011, section 4.3, with Python integers."""
    mask = 2**64 - 1
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & mask, (p0 >> 64) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


def test_words_are_philox_of_the_paper():
    # numpy raises the counter before the first block, so word 0 belongs to counter (1, position, 0, 0).
    expected = philox4x64((7, int(Stream.CROP)), (1, 12345, 0, 0)) + philox4x64((7, int(Stream.CROP)), (2, 12345, 0, 0))
    assert words(7, Stream.CROP, 12345, 8).tolist() == expected


def test_positions_and_streams_do_not_overlap():
    drawn = [set(words(0, s, p, 400).tolist()) for s in (Stream.CROP, Stream.FLIP) for p in (0, 1, 2)]
    assert len(set().union(*drawn)) == 6 * 400


def test_uniform_lies_in_the_unit_interval_and_is_flat():
    draws = np.concatenate([uniform(0, Stream.COLOUR, p, 100) for p in range(1000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000 * 0.9)


def test_integers_reach_every_value_below_the_bound():
    assert {integer(0, Stream.CAPTION, p, 5) for p in range(100)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("length", [1, 2, 3, 1000, 1 << 14, (1 << 14) + 1])
def test_permutation_is_the_stable_argsort_of_its_words(length: int):
    for position in range(5):
        drawn = words(1, Stream.LANE_ORDER, position, length)
        expected = np.argsort(drawn, kind="stable")
        assert np.array_equal(permutation(1, Stream.LANE_ORDER, position, length), expected)


def test_permutation_of_words_that_agree_in_their_high_bits(monkeypatch: pytest.MonkeyPatch):
    close = np.array([7, 2**63, 3, 2**63 + 1, 5, 2**63], dtype=np.uint64)
    monkeypatch.setattr("mmclip.randomness.words", lambda *_: close)
    assert permutation(0, Stream.LANE_ORDER, 0, 6).tolist() == [2, 4, 0, 1, 5, 3]


def test_permutation_is_one():
    assert sorted(permutation(1, Stream.LANE_ORDER, 9, 1000).tolist()) == list(range(1000))


def test_step_seeds_differ_between_steps_and_ranks():
    seeds = {step_seed(0, step, rank) for step in range(20) for rank in range(5)}
    assert len(seeds) == 100
    assert max(seeds) < 2**63
