import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.contrasim import matching as cases
from mmclip_eval.contrasim.closed_form import CKA, SET_MEASURES
from mmclip_eval.contrasim.match import _moved, match_pairs
from mmclip_eval.contrasim.matching import PairMatching, share_of
from mmclip_eval.contrasim.sets import ROUNDS, nearest_questions, random_questions
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.verdict import refusal_of_pairs

SETTINGS = ContraSimConfig(hidden=(64,), out=16, steps=120, pair_batch_size=64, lr=3e-3)
SETS: dict[str, Any] = {"set_size": 20, "wrong_sets": 4, "measures": {}}


def sides(content: float, seed: int = 0, rows: int = 300) -> tuple[Tensor, Tensor]:
    """Two sides of other widths that share three directions of this size, beside five of their own that are larger."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shared = content * draw(rows, 3)
    left, right = (torch.cat([shared, 3 * draw(rows, 5)], dim=1) for _ in range(2))
    return left @ torch.linalg.qr(draw(8, 8))[0], right @ draw(8, 10)


@pytest.fixture(scope="module")
def hidden_content() -> PairMatching:
    return match_pairs(*sides(1.0), ("pictures", "captions"), SETTINGS, **SETS)


def test_pairs_that_only_training_finds_get_a_verdict(hidden_content: PairMatching):
    learned, cka = hidden_content.of(cases.TRUE), hidden_content.of(cases.CLOSED, CKA)
    assert learned.random.value > cka.random.value + 0.2
    assert learned.nearest.value > cka.nearest.value + 0.2
    assert hidden_content.selectivity > 0.3
    assert hidden_content.refusal is None
    assert hidden_content.verdict.startswith("among nearest neighbours the true set is found in")


def test_wrong_pairs_teach_only_themselves(hidden_content: PairMatching):
    assert hidden_content.of(cases.WRONG_SEEN).random.value > 0.9
    for case in (cases.WRONG_OWN, cases.WRONG_TRUE):
        assert hidden_content.of(case).random.value < 0.5


def test_sides_without_anything_in_common_get_no_verdict():
    found = match_pairs(*sides(0.0), settings=SETTINGS, **SETS)
    assert found.refusal is not None
    assert "selectivity is" in found.refusal
    assert found.of(cases.TRUE).random.value < 0.5


def test_what_cka_finds_too_gets_no_verdict():
    found = match_pairs(*sides(30.0), settings=SETTINGS, **SETS)
    assert found.of(cases.TRUE).random.value == found.of(cases.CLOSED, CKA).random.value == 1
    assert found.refusal is not None
    assert "debiased CKA, which learns nothing, 100.0%" in found.refusal


def test_the_result_is_strict_json(hidden_content: PairMatching):
    found = json.loads(json.dumps(hidden_content.to_json(), allow_nan=False))
    assert (found["train_pairs"], found["test_pairs"], found["chance"]) == (200, 100, 0.2)
    assert {row["measure"] for row in found["rows"]} == {"ContraSim", CKA}


def test_sides_of_one_width_are_also_compared_as_they_are():
    left, _ = sides(1.0)
    settings = replace(SETTINGS, steps=2)
    found = match_pairs(left, left + 0.01, settings=settings, set_size=30, wrong_sets=1)
    assert {row.measure for row in found.rows} == {"ContraSim", CKA, *SET_MEASURES}
    assert all(found.of(cases.CLOSED, name).nearest.value == 1 for name in SET_MEASURES if name != "dot")
    wider = match_pairs(left, F.pad(left, (0, 1)), settings=settings, set_size=30, wrong_sets=1)
    assert not {"dot", "norm"} & {row.measure for row in wider.rows}


def test_the_same_seed_gives_the_same_figures():
    settings = replace(SETTINGS, steps=3)
    first, second = (match_pairs(*sides(1.0), settings=settings, **SETS) for _ in range(2))
    assert first == second


def test_random_sets_hold_no_row_of_the_set():
    questions = random_questions(47, 10, 5, seed=0)
    assert questions.asked.shape == (4 * ROUNDS, 10)
    assert questions.disjoint == 4
    for asked, candidates in zip(questions.asked.tolist(), questions.candidates.tolist(), strict=True):
        assert candidates[0] == asked
        for wrong in candidates[1:]:
            assert len({*wrong}) == 10
            assert not {*wrong} & {*asked}


def test_hard_sets_hold_the_kth_neighbour_of_each_row():
    right = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    cosine = F.cosine_similarity(right[:, None], right[None], dim=2)
    questions = nearest_questions(right, 10, 3, seed=0)
    for asked, candidates in zip(questions.asked.tolist(), questions.candidates.tolist(), strict=True):
        assert candidates[0] == asked
        for place, row in enumerate(asked):
            others = sorted(
                (other for other in range(30) if other != row), key=lambda other: -float(cosine[row, other])
            )
            assert [candidates[k][place] for k in (1, 2, 3)] == others[:3]


def test_too_few_pairs_for_two_sets_are_told():
    with pytest.raises(UserError, match="39 pairs are held out: expected at least two sets of 20"):
        random_questions(39, 20, 4, seed=0)


def test_wrong_pairs_leave_no_row_at_its_place():
    moved = _moved(50, torch.Generator().manual_seed(0))
    assert sorted(moved.tolist()) == list(range(50))
    assert not (moved == torch.arange(50)).any()


def test_the_interval_is_of_the_independent_questions():
    few, many = share_of(45, 90, 9), share_of(45, 90, 90)
    assert few.value == many.value == 0.5
    assert few.interval[1] - few.interval[0] > 2 * (many.interval[1] - many.interval[0])


@pytest.mark.parametrize(
    ("selectivity", "learned", "low", "cka", "refuses"),
    [
        (0.09, 0.9, 0.8, 0.5, True),
        (0.5, 0.6, 0.5, 0.6, True),
        (0.5, 0.61, 0.09, 0.6, True),
        (0.5, 0.61, 0.5, 0.6, False),
    ],
)
def test_the_rule_of_the_verdict(selectivity: float, learned: float, low: float, cka: float, refuses: bool):
    assert (refusal_of_pairs(selectivity, learned, low, 0.09, cka) is not None) is refuses
