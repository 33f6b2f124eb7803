import math

import pytest

from mmclip_eval.report.pages.overview import overview
from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.report.scores.metric_words import words_of
from mmclip_eval.report.scores.rows import Score, ScoreGroup, track_end
from mmclip_eval.report.training.history import History
from mmclip_eval.report.words import count, duration, percent, shorten

SUBJECT = Subject("demo", "tiny", "mmclip report demo", "a loom", image_parameters=397_000, text_parameters=6_760_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2409, "24.1 %"), (0.000755, "0.08 %"), (0.0994, "9.94 %"), (0.0995, "10.0 %"), (1.0, "100 %"), (0.9996, "99.96 %"),
     (0.0, "0.00 %"), (math.nan, "nan")],
)  # fmt: skip
def test_percentages_have_the_digits_that_tell_something(value: float, text: str):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (9_999, "9,999"), (12_800, "12.8 k"), (999_400, "999 k"), (1_410_000, "1.41 M"),
     (12_800_000_000, "12.8 B")],
)  # fmt: skip
def test_large_numbers_are_three_digits_and_a_unit(value: int, text: str):
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (48.4, "48 s"),
        (232, "3 min 52 s"),
        (59.7, "1 min 00 s"),
        (7_500, "2 h 05 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str):
    assert duration(seconds) == text


def test_long_texts_are_cut():
    assert shorten("short") == "short"
    assert shorten("猫" * 300) == "猫" * 159 + "…"


def test_metrics_have_words_and_unknown_ones_their_own_name():
    assert words_of("acc1") == "top\u20111 accuracy"
    assert words_of("text_retrieval_recall@5") == "picture to caption, recall@5"
    assert words_of("some_new_metric") == "some new metric"


def group(dataset: str, value: float, high: float, other_weights: str = "") -> ScoreGroup:
    score = Score("acc1", "top-1 accuracy", value, value / 2, high, 0.01)
    return ScoreGroup(dataset, "t", 10, "10 pictures", (score,), (), 0, "", (), other_weights)


def test_the_line_of_the_scores_ends_at_the_first_round_number_above_all():
    assert track_end([group("a", 0.1, 0.15), group("b", 0.2, 0.31)]) == 0.4
    assert track_end([group("a", 0.99, 1.0)]) == 1.0
    assert track_end([]) == 1.0


def test_the_head_says_what_the_run_is_and_whether_it_is_finished():
    config = {"global_batch_size": 8, "length": {"samples": 100}, "data": {"source": {"type": "synthetic"}}}
    history = History(config=config, samples_at=((1, 2), (8.0, 16.0)), losses=((1, 2), (3.0, 2.5)))
    head = overview(SUBJECT, history, [group("set", 0.24, 0.3), group("old", 0.1, 0.2, "runs/older")])
    assert head.sentence.startswith(
        "tiny (397 k parameters for pictures, 6.76 M for text), trained from random weights"
    )
    assert "16 samples of synthetic" in head.sentence
    assert "2 of 13 steps are done" in head.unfinished
    assert [(tile.name, tile.value) for tile in head.tiles] == [
        ("set: top-1 accuracy", "24.0 %"),
        ("samples seen", "16"),
        ("last loss", "2.5"),
    ]
    assert head.tiles[0].notes[0] == "chance 1.00 %"


def test_weights_without_a_run_are_said_to_be_scored_only():
    head = overview(SUBJECT, History(), [])
    assert "scored on held-out pictures without any training here" in head.sentence
    assert head.unfinished == ""
