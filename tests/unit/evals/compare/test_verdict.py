"""Figures judged by rules: the worst decides, intervals count, and a rule that cannot be meant is refused."""

import math
from dataclasses import replace

import pytest

from mmclip.errors import UserError
from mmclip_eval.compare.readings import Reading
from mmclip_eval.compare.verdict import Rule, Thresholds, judge

KNOWN = {
    "zero_shot.agreement": "higher",
    "zero_shot.negative_flips": "lower",
    "logit_scale.change": "nearer to 0",
    "representation.image.cka.position": "higher",
}
AGREEMENT = Reading("zero_shot.agreement", "val", "same answer", 0.95, 0.93, 0.97, 1.0, 0.1, "permuted pairs", "higher")


def word_of(reading: Reading, *rules: Rule) -> str:
    return judge([reading], Thresholds(rule=rules), KNOWN).word


def test_the_whole_interval_has_to_be_safe():
    assert word_of(AGREEMENT, Rule(figure=AGREEMENT.figure, safe=0.93)) == "safe"
    assert word_of(AGREEMENT, Rule(figure=AGREEMENT.figure, safe=0.94)) == "look"


def test_the_figure_itself_has_to_be_beyond_unsafe():
    assert word_of(AGREEMENT, Rule(figure=AGREEMENT.figure, safe=0.99, unsafe=0.95)) == "look"
    assert word_of(AGREEMENT, Rule(figure=AGREEMENT.figure, safe=0.99, unsafe=0.96)) == "unsafe"


def test_less_is_better_where_it_is():
    flips = replace(AGREEMENT, figure="zero_shot.negative_flips", better="lower", value=0.05, low=0.03, high=0.07)
    assert word_of(flips, Rule(figure=flips.figure, safe=0.07, unsafe=0.2)) == "safe"
    assert word_of(flips, Rule(figure=flips.figure, safe=0.06, unsafe=0.2)) == "look"
    assert word_of(flips, Rule(figure=flips.figure, safe=0.01, unsafe=0.04)) == "unsafe"


def test_a_distance_counts_either_way():
    scale = replace(AGREEMENT, figure="logit_scale.change", better="nearer to 0", value=-9.0, low=-9.0, high=-9.0)
    assert word_of(scale, Rule(figure=scale.figure, safe=10.0)) == "safe"
    assert word_of(scale, Rule(figure=scale.figure, safe=5.0)) == "look"
    assert word_of(scale, Rule(figure=scale.figure, safe=1.0, unsafe=5.0)) == "unsafe"


def test_the_worst_rule_decides_and_says_why():
    flips = replace(AGREEMENT, figure="zero_shot.negative_flips", better="lower", value=0.5, low=0.4, high=0.6)
    rules = Thresholds(
        rule=(
            Rule(figure=AGREEMENT.figure, safe=0.5),
            Rule(figure=flips.figure, safe=0.1, unsafe=0.2),
        )
    )
    found = judge([AGREEMENT, flips], rules, KNOWN)
    assert found.word == "unsafe"
    assert [one.word for one in found.judged] == ["unsafe", "safe"]
    assert found.reasons == ("same answer (val): 0.5 (0.4 to 0.6), expected at most 0.2",)


def test_a_figure_of_each_set_is_judged():
    other = replace(AGREEMENT, about="other", low=0.1)
    found = judge([AGREEMENT, other], Thresholds(rule=(Rule(figure=AGREEMENT.figure, safe=0.9),)), KNOWN)
    assert [(one.reading.about, one.word) for one in found.judged] == [("other", "look"), ("val", "safe")]


def test_what_is_no_number_is_not_safe():
    broken = replace(AGREEMENT, value=math.nan, low=math.nan, high=math.nan)
    assert word_of(broken, Rule(figure=broken.figure, safe=0.1)) == "look"
    assert word_of(broken, Rule(figure=broken.figure, safe=0.1, unsafe=0.0)) == "unsafe"


def test_without_behaviour_nobody_is_safe():
    inside = replace(AGREEMENT, figure="representation.image.cka.position", value=1.0, low=1.0, high=1.0)
    found = judge([inside], Thresholds(rule=(Rule(figure=inside.figure, safe=0.5),)), KNOWN)
    assert found.word == "look"
    assert "nothing was asked of the models" in found.reasons[0]
    assert judge([], Thresholds(rule=()), KNOWN).word == "look"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(figure="zero_shot.agreeing", safe=0.5), "did you mean 'zero_shot.agreement'"),
        (Rule(figure="weather", safe=0.5), "expected one of logit_scale.change, "),
        (Rule(figure="zero_shot.agreement", safe=0.5, unsafe=0.6), "expected unsafe below safe"),
        (Rule(figure="zero_shot.negative_flips", safe=0.5, unsafe=0.4), "expected unsafe above safe"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: Rule, message: str):
    with pytest.raises(UserError, match=message):
        judge([AGREEMENT], Thresholds(rule=(rule,)), KNOWN)
