import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmclip.towers.text_groups import TextPlan, plan_groups


def lognormal_lengths(count: int) -> np.ndarray:
    """Of captions as the web has them: 16 tokens in the mean, a standard deviation of 10."""
    spread = np.log(1 + (10 / 16) ** 2)
    drawn = np.random.default_rng(0).lognormal(np.log(16) - spread / 2, spread**0.5, count)
    return np.clip(drawn.round().astype(int), 3, 77)


def columns(plan: TextPlan) -> int:
    return sum(captions * width for captions, width in plan.groups)


@given(
    lengths=st.lists(st.integers(1, 77), min_size=1, max_size=200),
    groups=st.one_of(st.just("auto"), st.integers(1, 20)),
    static=st.booleans(),
)
def test_each_caption_runs_once_in_a_group_that_holds_it(lengths: list[int], groups: int | str, static: bool):
    plan = plan_groups(np.array(lengths), 77, groups, static)
    assert sorted(plan.order) == list(range(len(lengths)))
    assert [plan.order[place] for place in plan.back] == list(range(len(lengths)))
    places = [width for captions, width in plan.groups for _ in range(captions)]
    assert all(lengths[caption] <= width for caption, width in zip(plan.order, places, strict=True))
    assert all(width % 8 == 0 or width == 77 for _, width in plan.groups)
    assert all(captions > 0 for captions, _ in plan.groups)


@pytest.mark.parametrize(("batch", "counts"), [(16, [4, 4, 4, 4]), (18, [5, 5, 4, 4]), (3, [1, 1, 1])])
def test_a_number_of_groups_is_exact_and_their_counts_are_as_equal_as_can_be(batch: int, counts: list[int]):
    plan = plan_groups(np.arange(1, batch + 1), 77, 4)
    assert [captions for captions, _ in plan.groups] == counts


def test_widths_are_the_next_multiple_of_eight_of_the_longest_in_the_group():
    plan = plan_groups(np.array([3, 30, 9, 8, 77, 16]), 77, 3)
    assert plan.groups == ((2, 8), (2, 16), (2, 77))
    assert plan.order.tolist() == [0, 3, 2, 5, 1, 4]


def test_one_group_keeps_the_order_of_the_batch():
    plan = plan_groups(np.array([9, 3, 20]), 77, 1)
    assert plan.groups == ((3, 24),)
    assert plan.order.tolist() == [0, 1, 2]


def test_automatic_groups_have_one_width_each_and_few_captions_join_the_next():
    lengths = np.array([5] * 70 + [12] * 57 + [20] + [28] * 3)
    assert plan_groups(lengths, 77, "auto").groups == ((70, 8), (57, 16), (4, 32))


@pytest.mark.parametrize(("batch", "groups"), [(7, 1), (16, 2), (64, 4), (4096, 4)])
def test_static_shapes_take_four_equal_groups_and_fewer_in_small_batches(batch: int, groups: int):
    plan = plan_groups(lognormal_lengths(batch), 77, "auto", static_shapes=True)
    assert len(plan.groups) == groups
    assert {captions for captions, _ in plan.groups} == {batch // groups}


def test_groups_save_most_of_the_columns_of_short_captions():
    lengths = lognormal_lengths(1024)
    saved = {groups: 1024 * 77 / columns(plan_groups(lengths, 77, groups)) for groups in (1, 8, "auto")}
    assert saved[1] < 1.1 < 2.8 < saved[8] < saved["auto"]
    assert saved["auto"] > 0.95 * 1024 * 77 / (np.ceil(lengths / 8) * 8).sum()


def test_rows_begin_where_the_groups_before_them_end():
    plan = plan_groups(np.array([3, 3, 9]), 77, 2)
    assert plan.groups == ((2, 8), (1, 16))
    assert plan.first_rows.tolist() == [0, 8, 16]


def test_columns_that_trimmed_tokens_lack_are_padding():
    plan = plan_groups(np.array([3, 9]), 77, 2)
    short, long = plan.cut(torch.arange(20).reshape(2, 10), pad_id=7)
    assert short.tolist() == [list(range(8))]
    assert long.tolist() == [[*range(10, 20), *[7] * 6]]
