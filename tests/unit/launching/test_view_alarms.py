"""Alarms over what self-supervised objectives report: said at the onset, silent on healthy figures and where there are none."""

import math

import pytest

from mmclip.training.progress import Progress
from mmclip_launch.run.records.alarm_rule import Expected
from mmclip_launch.run.records.alarms import Monitor
from mmclip_launch.run.records.view_alarms import RULES, features_of, objective_of

BATCH = 64
EXPECTED = Expected(
    settled_after=0,
    chance_loss=None,
    max_logit_scale=100.0,
    max_grad_norm=1.0,
    workers=1,
    prototypes={"": 64, "dino/": 4096},
)
HEALTHY = {
    "train/loss": 2.0,
    "train/grad_norm": 5.0,
    "train/data_wait_fraction": 0.05,
    "train/prototype_use": 0.6,
    "train/assignment_entropy": 2.0,
    "train/dino/prototype_use": 0.5,
    "train/dino/teacher_entropy": 5.0,
    "train/dino/teacher_cosine": 0.95,
    "train/queue_agreement": 0.9,
    "train/gradient_cosine/main/dino": 0.1,
    **{
        f"health/{name}_{figure}": value
        for name in ("pooled", "dino/projected")
        for figure, value in {
            "std": 0.8,
            "effective_rank": 30.0,
            "effective_rank_centred": 30.0,
            "raw_std": 0.7,
            "dimensions": 128.0,
        }.items()
    },
}
Line = dict[str, float]


def said(lines: list[Line]) -> list[tuple[int, str]]:
    monitor = Monitor(EXPECTED)
    steps = enumerate(lines, start=1)
    return [
        (alarm.step, alarm.alarm) for step, line in steps for alarm in monitor.read(Progress(step, step * BATCH), line)
    ]


ONSETS = [  # name, what is bad, what is neither bad nor fine, logs until it is said
    ("feature_collapse", {"health/pooled_std": 0.05}, {"health/pooled_std": 0.15}, 3),
    (
        "feature_collapse",
        {"health/dino/projected_effective_rank": 1.1},
        {"health/dino/projected_effective_rank": 1.8},
        3,
    ),
    ("feature_collapse", {"health/dino/projected_raw_std": 0.001}, {"health/dino/projected_raw_std": 0.015}, 3),
    (
        "dimensional_collapse",
        {"health/dino/projected_effective_rank_centred": 5.0},
        {"health/dino/projected_effective_rank_centred": 9.0},
        3,
    ),
    ("prototypes_unused", {"train/dino/prototype_use": 0.01}, {"train/dino/prototype_use": 0.07}, 3),
    (
        "uniform_assignments",
        {"train/dino/teacher_entropy": math.log(4096) - 1e-4},
        {"train/dino/teacher_entropy": math.log(4096) - 5e-3},
        3,
    ),
    ("uniform_assignments", {"train/assignment_entropy": math.log(64)}, {"train/assignment_entropy": 4.154}, 3),
    ("teacher_apart", {"train/dino/teacher_cosine": 0.5}, {"train/dino/teacher_cosine": 0.75}, 5),
    ("queue_stale", {"train/queue_agreement": 0.5}, {"train/queue_agreement": 0.75}, 3),
    ("objectives_at_odds", {"train/gradient_cosine/main/dino": -0.5}, {"train/gradient_cosine/main/dino": -0.25}, 5),
]


@pytest.mark.parametrize(("name", "bad", "between", "patience"), ONSETS)
def test_alarm_is_said_at_its_onset_and_again_only_after_recovery(name: str, bad: Line, between: Line, patience: int):
    healthy, wrong, unclear = [HEALTHY] * 20, [{**HEALTHY, **bad}] * patience, [{**HEALTHY, **between}] * 2
    lines = [*healthy, *wrong, *wrong, *unclear, *wrong, *healthy, *wrong, HEALTHY]
    assert said(lines) == [(len(healthy) + patience, name), (len(lines) - 1, name)]
    assert said([*healthy, *(wrong[1:] + unclear[:1]) * 4]) == []


def test_every_rule_has_an_onset_here():
    assert {name for name, *_ in ONSETS} | {"feature_rank_drop"} == {rule.name for rule in RULES}


def test_the_rank_of_the_towers_features_is_held_against_its_own_maximum():
    def ranks(*values: float) -> list[Line]:
        return [{**HEALTHY, "health/pooled_effective_rank": value} for value in values]

    assert said([*ranks(*[20.0] * 8), *ranks(5.0, 5.0), *ranks(*[20.0] * 8)]) == []  # not by one batch
    (onset,) = said([*ranks(*[20.0] * 8), *ranks(*[13.9] * 6)])
    assert onset[1] == "feature_rank_drop"


def test_few_dimensions_are_no_loss_of_many():
    small = {**HEALTHY, "health/dino/projected_dimensions": 16.0, "health/dino/projected_effective_rank_centred": 5.0}
    assert said([small] * 5) == []
    assert said([{**small, "health/dino/projected_effective_rank_centred": 1.5}] * 5) == [(3, "dimensional_collapse")]


def test_a_run_without_such_figures_and_a_queue_that_no_picture_came_back_to_are_silent():
    pairs = {name: value for name, value in HEALTHY.items() if name.count("/") == 1 and "queue" not in name}
    assert said([{n: v for n, v in pairs.items() if n.startswith("train/") and "_" in n[6:]}] * 20) == []
    assert said([{**HEALTHY, "train/queue_agreement": math.nan}] * 20) == []


def test_drawings_that_differ_make_no_queue_stale():
    """Strong views of one picture agree in .7 at best."""
    strong = {**HEALTHY, "train/queue_agreement": 0.6, "train/view_similarity": 0.7}
    assert said([strong] * 20) == []
    assert said([{**strong, "train/queue_agreement": 0.4}] * 5) == [(3, "queue_stale")]


def test_figures_know_their_objective_and_features_their_names():
    assert [objective_of(name) for name in ("train/loss", "train/dino/loss")] == ["", "dino/"]
    assert features_of(HEALTHY) == ["pooled", "dino/projected"]
