"""The study on digits, as small as its findings bear: five seeds and few steps."""

import json

import pytest

from mmclip.errors import UserError
from mmclip_eval.contrasim import matching
from mmclip_eval.contrasim import prediction as cases
from mmclip_eval.contrasim.closed_form import CKA, PLAIN
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_launch.contrasim.digit_models import Digits, layers_of_digits, trained
from mmclip_launch.contrasim.digit_study import DigitsConfig, DigitsStudy, study_digits

pytestmark = pytest.mark.slow
STEPS = 40


@pytest.fixture(scope="module")
def study() -> DigitsStudy:
    contrasim = ContraSimConfig(steps=150, most_rows=600)
    return study_digits(DigitsConfig(seeds=5, steps=STEPS, contrasim=contrasim), PLAIN)


def test_seen_models_are_told_apart_and_so_are_wrong_layers(study: DigitsStudy):
    found = study.layers
    assert found.layers == tuple(f"block {number} mean" for number in range(1, 7))
    assert found.of(cases.SEEN).value > 0.9
    assert found.of(cases.WRONG_OWN).value > 0.9
    assert found.of(cases.WRONG_TRUE).value < 0.4
    assert abs(found.selectivity) < 0.1


def test_nothing_of_it_needs_pairs_and_nothing_goes_over_to_other_models(study: DigitsStudy):
    found = study.layers
    assert found.of(cases.UNPAIRED).value > 0.7
    assert found.of(cases.UNPAIRED, CKA).value < 0.4
    assert found.of(cases.ROTATED).value < 0.5
    assert found.of(cases.HELD_OUT).value < 0.6


def test_no_verdict_is_given_on_layers(study: DigitsStudy):
    assert study.layers.refusal is not None
    assert "it learns whatever it is told" in study.layers.refusal


def test_pairs_of_two_seeds_are_found_and_wrong_pairs_are_not(study: DigitsStudy):
    found = study.pairs
    assert found.of(matching.TRUE).random.value > 0.8
    assert found.of(matching.WRONG_OWN).random.value < 0.5
    assert json.loads(json.dumps(study.to_json(), allow_nan=False))["study"] == "digits"


def test_a_seed_gives_the_same_model_and_another_seed_another():
    digits = Digits.load()
    first, again, other = (layers_of_digits(trained(digits, seed, 3), digits) for seed in (0, 0, 1))
    assert first["block 6 mean"].equal(again["block 6 mean"])
    assert not first["block 6 mean"].equal(other["block 6 mean"])


def test_too_few_seeds_are_told():
    with pytest.raises((UserError, ValueError), match="seeds=4: expected 5 or more"):
        DigitsConfig(seeds=4)
