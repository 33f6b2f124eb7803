import numpy as np
import pytest

from mmclip.errors import UserError
from mmclip_data.loading.plan import Plan, PlanConfig


def make_plan(sizes: list[int], seed: int = 0, lanes: int = 64, window: int = 50) -> Plan:
    return Plan(PlanConfig(lanes=lanes, window=window), seed, np.array(sizes))


SHARDS = {
    "uneven": [3, 17, 1, 40, 29, 8, 55, 2],
    "one shard": [101],
    "one sample": [1],
    "many small": [2] * 90,
    "a prime": [97, 100, 56],
}


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("window", [1, 7, 50, 10_000])
def test_each_sample_comes_exactly_once_in_each_epoch(sizes: list[int], window: int):
    plan = make_plan(sizes, window=window)
    every = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    n = len(every)
    for epoch in (0, 1, 5):
        located = [plan.locate(position) for position in range(epoch * n, (epoch + 1) * n)]
        assert len(located) == n
        assert set(located) == every


def test_order_differs_between_epochs_and_seeds():
    sizes = [20] * 8

    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return [make_plan(sizes, seed=seed).locate(p) for p in range(epoch * 160, (epoch + 1) * 160)]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_order_is_the_recorded_one():
    """The order is a contract with every saved run: a change here needs a new ORDER_VERSION."""
    plan = make_plan([5, 7, 4, 6], seed=3, window=4)
    assert [plan.locate(position) for position in (0, 1, 2, 3, 21, 22, 10**9)] == [
        (3, 2),
        (3, 4),
        (3, 1),
        (0, 0),
        (1, 5),
        (2, 0),
        (1, 2),
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 6, 7, 8])
def test_ranks_slices_join_to_the_same_batch(world_size: int):
    plan = make_plan([37] * 40)
    for start in (0, 840, 37 * 40 - 400, 10**9):
        slices = [plan.rank_slice(start, 840, rank, world_size) for rank in range(world_size)]
        joined = np.concatenate(slices)
        assert joined.tolist() == plan.batch(start, 840).tolist()
        assert sorted(joined.tolist()) == list(range(start, start + 840))


def test_a_rank_reads_about_its_share_of_the_shards():
    """The point of the lanes: with 8 ranks a rank's samples come from few more than an eighth of the shards at a time."""
    plan = make_plan([100] * 128, lanes=64, window=100)  # a block of 6,400 samples: half of the shards
    touched = [
        {plan.locate(p)[0] for start in range(0, 6400, 640) for p in plan.rank_slice(start, 640, rank, 8).tolist()}
        for rank in range(8)
    ]
    assert max(len(shards) for shards in touched) <= 16
    assert len(set().union(*touched)) >= 64


def test_a_batch_mixes_distant_shards():
    plan = make_plan([100] * 128, lanes=64, window=100)
    shards = {plan.locate(p)[0] for p in plan.batch(0, 256).tolist()}
    assert len(shards) >= 32


def test_lanes_shrink_with_the_number_of_shards():
    assert make_plan([1000]).lanes == 1
    assert make_plan([10] * 20).lanes == 10
    assert make_plan([10] * 1000).lanes == 64


def test_single_lane_shuffles_across_shards():
    plan = make_plan([50, 50], window=1000)
    first = [plan.locate(p)[0] for p in range(50)]
    assert 10 < sum(first) < 40


def test_fingerprint_names_everything_that_the_order_depends_on():
    def named(plan: Plan, source: str = "a") -> str:
        return plan.fingerprint(source)

    base = make_plan([5] * 8)
    others = [make_plan([5] * 8, seed=1), make_plan([5] * 8, lanes=2), make_plan([5] * 8, window=9)]
    names = {named(base), named(base, "b"), *(named(other) for other in others)}
    assert len(names) == 5


def test_zero_lanes_are_refused():
    with pytest.raises(UserError, match="lanes=0"):
        make_plan([5], lanes=0)


@pytest.mark.parametrize("start", [0, 100, 10**9 + 7, 2**40])
def test_positions_are_found_together_as_one_by_one(start: int):
    plan = Plan(PlanConfig(window=20), 3, np.array([23, 1, 40, 17, 30, 11, 29]))
    positions = list(range(start, start + 400))
    assert plan.locate_all(positions) == [plan.locate(position) for position in positions]
