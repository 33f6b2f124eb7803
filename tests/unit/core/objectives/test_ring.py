"""The queue of keys against a plain list of what was pushed."""

from collections import deque

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip.objectives.parts.ring import LOOKED_AT, Ring

GO, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)
Row = tuple[list[float], list[int], int]

pushes = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=8)


def push(ring: Ring, rows: int, step: int, skipped: Tensor = GO, first: int = 0) -> list[Row]:
    """Push rows that differ from all others, and tell what they are."""
    numbers = torch.arange(first, first + rows)
    keys, labels = torch.stack([numbers, -numbers], 1).float(), torch.stack([numbers % 3, numbers // 2], 1)
    ring.push(keys, labels, step, skipped)
    return [(key, label, step) for key, label in zip(keys.tolist(), labels.tolist(), strict=True)]


def held(ring: Ring) -> list[Row]:
    """The filled rows, the oldest one first."""
    order = ring.oldest_first()[: int(ring.count)]
    columns = ring.keys[order].tolist(), ring.labels[order].tolist(), ring.pushed_at[order].tolist()
    return list(zip(*columns, strict=True))


@hypothesis.given(capacity=st.integers(0, 9), pushes=pushes)
def test_it_holds_the_last_rows_that_were_pushed_in_the_order_of_their_age(
    capacity: int, pushes: list[tuple[int, bool]]
):
    """Any number of rows at a time, none and more than there is room for too; steps that were skipped leave no trace."""
    ring, expected = Ring(capacity, 2, 2), deque[Row](maxlen=capacity)
    for step, (rows, skipped) in enumerate(pushes):
        pushed = push(ring, rows, step, SKIPPED if skipped else GO, first=100 * step)
        expected.extend([] if skipped else pushed)
        assert held(ring) == list(expected)
        assert int(ring.count) == len(expected) == int(ring.filled().sum())
        assert ring.filled()[ring.oldest_first()[: len(expected)]].all()
        ages = [step - pushed_at for _, _, pushed_at in expected]
        assert ring.ages(step)[ring.oldest_first()[: len(expected)]].tolist() == ages
        assert float(ring.mean_age(step)) == pytest.approx(sum(ages) / len(ages) if ages else 0)
        assert float(ring.share_filled()) == pytest.approx(len(expected) / capacity if capacity else 1)


@hypothesis.given(capacity=st.integers(1, 9), pushes=pushes)
def test_only_filled_rows_of_other_samples_are_negatives(capacity: int, pushes: list[tuple[int, bool]]):
    ring = Ring(capacity, 2, 2)
    for step, (rows, _) in enumerate(pushes):
        push(ring, rows, step, first=5 * step)
    batch = torch.tensor([[0, 0], [1, 7], [50, 50]])
    found = ring.others(batch)
    for row, labels in enumerate(batch.tolist()):
        for place in range(capacity):
            same = any(a == b for a, b in zip(labels, ring.labels[place].tolist(), strict=True))
            assert bool(found[row, place]) == (bool(ring.filled()[place]) and not same)
    assert torch.equal(found[2], ring.filled())


def test_a_key_of_zeros_that_was_pushed_is_told_from_a_row_that_never_was():
    ring = Ring(4, 2, 1)
    ring.push(torch.zeros(2, 2), torch.zeros(2, 1, dtype=torch.int64), 0, GO)
    assert ring.filled().tolist() == [True, True, False, False]
    assert ring.others(torch.tensor([[0], [1]])).tolist() == [[False] * 4, [True, True, False, False]]


def test_a_resumed_ring_goes_on_where_the_first_one_stood():
    first, second = Ring(5, 2, 2), Ring(5, 2, 2)
    push(first, 7, 0)
    second.load_state_dict(first.state_dict())
    assert set(first.state_dict()) == {"keys", "labels", "pushed_at", "pushed"}
    for ring in (first, second):
        push(ring, 3, 1, first=40)
    assert held(first) == held(second)


def test_labels_of_one_factor_serve_a_ring_of_two_and_others_are_refused():
    ring = Ring(3, 2, 2)
    ring.push(torch.ones(2, 2), torch.tensor([[4], [5]]), 0, GO)
    assert ring.others(torch.tensor([[4], [9]])).tolist() == [[False, True, False], [True, True, False]]
    with pytest.raises(UserError, match=r"labels with 3 factors for a queue of 2: expected 1 or 2"):
        ring.others(torch.zeros(2, 3, dtype=torch.int64))


def test_keys_are_held_without_a_graph_and_keep_their_precision():
    ring = Ring(3, 2, 1).double()
    keys = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    ring.push(keys, torch.zeros(2, 1, dtype=torch.int64), 0, GO)
    assert not ring.keys.requires_grad
    assert torch.equal(ring.keys[:2], keys.detach())
    assert ring.labels.dtype == ring.pushed_at.dtype == ring.pushed.dtype == torch.int64


def test_agreement_is_the_cosine_of_queued_and_new_keys_of_the_same_pictures():
    """Two of three pictures come again; the last factor names them, whatever their captions are."""
    ring = Ring(8, 2, 2)
    nothing = ring.agreement(torch.eye(2), torch.tensor([[0, 1], [0, 2]]))
    assert nothing.isnan()
    ring.push(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[7, 1], [7, 2]]), 0, GO)
    now = torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    found = ring.agreement(now, torch.tensor([[5, 1], [5, 2], [7, 3]]))
    assert float(found) == pytest.approx((0.6 + 0.8) / 2)
    assert ring.agreement(now, torch.tensor([[5, 0], [5, 9], [7, 3]])).isnan()  # label 0 is that of rows never filled


def test_only_some_keys_are_looked_for():
    ring = Ring(4, 2, 1)
    ring.push(torch.tensor([[1.0, 0.0]]), torch.tensor([[1]]), 0, GO)
    keys = torch.tensor([[1.0, 0.0]]).repeat(LOOKED_AT + 1, 1)
    labels = torch.full((LOOKED_AT + 1, 1), 9)
    labels[-1] = 1
    assert ring.agreement(keys, labels).isnan()
    labels[0] = 1
    assert float(ring.agreement(keys, labels)) == 1
