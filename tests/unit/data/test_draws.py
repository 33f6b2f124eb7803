"""Sampling with replacement: seeded draws that no layout changes."""

from collections import Counter

import numpy as np
import pytest

from mmclip_data.loading.order import DRAWS_IN_BLOCK, Draws

SIZES = np.array([3, 17, 1, 40, 29])
TOTAL = int(SIZES.sum())


def test_draws_are_uniform_and_independent_of_each_other():
    order = Draws(3, SIZES)
    drawn = Counter(order.locate_all(range(200 * TOTAL)))
    assert set(drawn) == {(shard, row) for shard, size in enumerate(SIZES.tolist()) for row in range(size)}
    counts = np.array(list(drawn.values()))
    chi_squared = float(((counts - 200) ** 2 / 200).sum())
    assert abs(chi_squared - (TOTAL - 1)) < 5 * (2 * TOTAL) ** 0.5
    never = [TOTAL - len({order.locate(p) for p in range(e * TOTAL, (e + 1) * TOTAL)}) for e in range(40)]
    assert np.mean(never) / TOTAL == pytest.approx(np.exp(-1), abs=0.03)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_same_batch_and_each_reads_its_own_shards(world_size: int):
    order = Draws(0, np.full(64, 50))
    for start in (0, DRAWS_IN_BLOCK - 100, 10**9):
        slices = [order.rank_slice(start, 420, rank, world_size).tolist() for rank in range(world_size)]
        assert sorted(sum(slices, [])) == list(range(start, start + 420))
        shards = [{order.locate(position)[0] for position in part} for part in slices]
        assert all(len(part) <= 64 // world_size + 12 for part in shards)


def test_another_seed_draws_others_and_has_another_fingerprint():
    one, other = Draws(1, SIZES), Draws(2, SIZES)
    assert [one.locate(p) for p in range(20)] != [other.locate(p) for p in range(20)]
    assert one.fingerprint("a") != other.fingerprint("a")


def test_the_draws_are_the_recorded_ones():
    """A contract with every saved run: a change here needs a new ORDER_VERSION."""
    assert Draws(3, SIZES).locate_all([0, 1, 2, 1023, 1024, 10**9]) == RECORDED


RECORDED = [(1, 9), (3, 22), (1, 4), (1, 5), (3, 30), (3, 12)]
