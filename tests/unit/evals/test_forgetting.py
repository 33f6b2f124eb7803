"""What fine-tuning cost, and the chapters that a page has for it."""

import json
import math
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_eval.report.training.finetuning import finetuning_chapters
from mmclip_eval.report.training.history import read_history
from mmclip_eval.results.forgetting import Figure, forgetting
from mmclip_eval.results.low_label import LowLabelCurve, Point

BEFORE = [Figure("a/acc1", 0.60, 0.57, 0.63), Figure("b/acc1", 0.40, 0.36, 0.44)]
AFTER = [Figure("b/acc1", 0.42, 0.38, 0.46), Figure("a/acc1", 0.50, 0.47, 0.54)]


def test_a_drop_is_before_less_after_with_an_interval_of_both():
    found = forgetting(BEFORE, AFTER)
    a, b = found.figures
    assert (a.name, a.drop, b.drop) == ("a/acc1", pytest.approx(0.10), pytest.approx(-0.02))
    assert (a.low, a.high) == pytest.approx((0.10 - math.hypot(0.03, 0.04), 0.10 + math.hypot(0.03, 0.03)))
    assert found.mean.drop == pytest.approx(0.04)
    assert found.mean.high - found.mean.drop == pytest.approx(math.hypot(a.high - a.drop, b.high - b.drop) / 2)


def test_the_mean_or_a_figure_beyond_its_interval_is_too_much_and_noise_is_not():
    found = forgetting(BEFORE, AFTER)
    assert [one.name for one in found.beyond(0.02)] == ["mean", "a/acc1"]
    assert [one.name for one in found.beyond(0.045)] == ["a/acc1"]  # the other one gained: the mean alone would hide it
    assert not found.beyond(0.06)  # the drop of `a` is larger, but may be noise


def test_figures_that_are_not_the_same_are_named():
    with pytest.raises(UserError, match=r"do not match \(b/acc1\)"):
        forgetting(BEFORE, AFTER[1:])
    with pytest.raises(UserError, match=r"do not match \(none at all\)"):
        forgetting([], [])


def test_a_page_tells_of_what_was_kept_and_of_few_labels(tmp_path: Path):
    (tmp_path / "config.toml").write_text("global_batch_size = 8\n")
    assert finetuning_chapters(read_history(tmp_path)) == []
    table = {**forgetting(BEFORE, AFTER).to_json(), "max_forgetting": 0.02, "beyond": ["mean"]}
    (tmp_path / "forgetting.json").write_text(json.dumps(table))
    points = tuple(
        Point(shots, method, value, value - 0.1, value + 0.1)
        for shots in (1, 4)
        for method, value in (("fine-tuned", 0.5), ("zero-shot", 0.2))
    )
    curve = LowLabelCurve("leaves", 100, 0.1, (0, 1), ("fine-tuned", "zero-shot"), points, {})
    (tmp_path / "low_label.json").write_text(json.dumps(curve.to_json()))
    kept, few = finetuning_chapters(read_history(tmp_path))
    assert "4.0 points were lost. At most 2.0 points were allowed. The guard did not hold." in kept.intro
    assert "a: top-1 accuracy" in kept.cards[0].svg or "a: " in kept.cards[0].svg
    assert "4 labels a class" in few.cards[1].svg
    assert "leaves (100 pictures)" in few.intro
