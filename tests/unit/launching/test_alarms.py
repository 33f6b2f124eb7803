"""Each alarm over hand-made figures: it is said at its onset, not again, and again only after it was over."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid
from mmclip.training.progress import Progress
from mmclip_launch.run.records import pair_alarms
from mmclip_launch.run.records.alarm_rule import Expected, chance_loss
from mmclip_launch.run.records.alarms import Alarm, Monitor

BATCH = 64
EXPECTED = Expected(settled_after=0, chance_loss=math.log(BATCH), max_logit_scale=100.0, max_grad_norm=1.0, workers=1)
HEALTHY = {
    "train/loss": 2.0,
    "train/grad_norm": 5.0,
    "train/in_batch_top_1": 0.3,
    "train/logit_scale": 20.0,
    "train/data_wait_fraction": 0.05,
    **{f"health/{modality}_effective_rank": 20.0 for modality in ("image", "text")},
    **{f"health/{modality}_std": 0.85 for modality in ("image", "text")},
    **{f"health/{modality}_uniformity": -2.0 for modality in ("image", "text")},
}
Line = dict[str, float]


def line(**changed: float) -> Line:
    """A healthy line but for `health__image_std=0.1` and the like."""
    return {**HEALTHY, **{name.replace("__", "/"): value for name, value in changed.items()}}


def watch(lines: Iterable[Line], monitor: Monitor | None = None, first_step: int = 1) -> list[Alarm]:
    monitor = monitor or Monitor(EXPECTED)
    steps = enumerate(lines, start=first_step)
    return [alarm for step, figures in steps for alarm in monitor.read(Progress(step, step * BATCH), figures)]


def said(lines: Iterable[Line]) -> list[tuple[int, str]]:
    return [(alarm.step, alarm.alarm) for alarm in watch(lines)]


def test_a_healthy_run_is_silent():
    torch.manual_seed(0)
    noise = torch.empty(300, len(HEALTHY)).uniform_(0.85, 1.15).tolist()
    assert said({n: v * f for (n, v), f in zip(HEALTHY.items(), row, strict=True)} for row in noise) == []


ONSETS = [  # name, what is bad, what is neither bad nor fine, logs until it is said
    ("collapse", {"health__image_std": 0.1}, {"health__image_std": 0.55}, 3),
    ("collapse", {"health__text_effective_rank": 1.1}, {"health__text_effective_rank": 1.8}, 3),
    ("collapse", {"health__text_uniformity": -0.01}, {"health__text_uniformity": -0.2}, 3),
    ("loss_at_chance", {"train__loss": math.log(BATCH)}, {"train__loss": math.log(BATCH) - 0.01}, 3),
    ("logit_scale_clamped", {"train__logit_scale": 99.99}, {"train__logit_scale": 99.5}, 10),
    ("gradient_spike", {"train__grad_norm": 60.0}, {"train__grad_norm": 20.0}, 1),
    ("data_starvation", {"train__data_wait_fraction": 0.8}, {"train__data_wait_fraction": 0.4}, 5),
]


@pytest.mark.parametrize(("name", "bad", "between", "patience"), ONSETS)
def test_alarm_is_said_at_its_onset_and_again_only_after_recovery(name: str, bad: Line, between: Line, patience: int):
    healthy, wrong, unclear = [line()] * 20, [line(**bad)] * patience, [line(**between)] * 2
    lines = [*healthy, *wrong, *wrong, *unclear, *wrong, *healthy, *wrong, line()]
    onsets = [len(healthy) + patience, len(lines) - 1]
    # A rank of 1 is also a drop of the rank, which has a test of its own.
    assert [entry for entry in said(lines) if entry[1] != "rank_drop"] == [(step, name) for step in onsets]
    too_few = [*healthy, *(wrong[1:] + unclear[:1]) * 4]
    assert {other for _, other in said(too_few)} <= {"rank_drop"}


def test_rank_drop_is_measured_from_its_maximum_and_not_by_one_batch():
    def ranks(*values: float) -> list[Line]:
        return [line(health__image_effective_rank=v, health__text_effective_rank=2 * v) for v in values]

    healthy, low, between = ranks(*[20.0] * 8), ranks(*[13.9] * 6), ranks(*[15.0] * 6)
    assert said([*healthy, *ranks(5.0, 5.0), *healthy]) == []
    assert said([*healthy, *low, *between, *low, *healthy, *low]) == [(11, "rank_drop"), (37, "rank_drop")]
    rising_then_flat = ranks(*range(5, 30), *[24.0] * 10)
    assert said(rising_then_flat) == []


def test_an_image_rank_that_falls_to_that_of_few_captions_is_no_drop():
    falling = [line(health__image_effective_rank=40.0 - i, health__text_effective_rank=8.0) for i in range(25)]
    assert said(falling) == []


def test_a_narrow_cone_that_tells_its_pairs_apart_is_no_collapse():
    assert said([line(health__image_std=0.4, train__in_batch_top_1=0.8)] * 10) == []


def test_weights_that_start_at_the_clamp_are_not_told_of_it():
    clamped = [line(train__logit_scale=100.0)] * 30
    assert said(clamped) == []
    assert said([*clamped, line(), *clamped]) == [(41, "logit_scale_clamped")]


def test_figures_that_are_missing_or_not_finite_set_nothing_off():
    assert said([{"train/loss": 2.0}] * 30) == []
    assert said([dict.fromkeys(HEALTHY, math.nan)] * 30) == []


def test_the_first_steps_are_not_judged_but_the_loader_is(monkeypatch: pytest.MonkeyPatch):
    late = Expected(**{**vars(EXPECTED), "settled_after": 20 * BATCH})
    begin = line(health__text_std=0.01, train__loss=math.log(BATCH), train__data_wait_fraction=0.9)
    found = [(alarm.step, alarm.alarm) for alarm in watch([begin] * 30, Monitor(late))]
    assert found == [(5, "data_starvation"), (23, "collapse"), (23, "loss_at_chance")]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_resumed_monitor_says_what_an_unbroken_one_says(cut: int, tmp_path: Path):
    def row(i: int) -> Line:
        spike = 90.0 if i in (25, 26, 50) else 5.0 + i % 3
        wait, scale = (0.9 if 12 <= i < 24 or i > 45 else 0.1), (100.0 if i > 30 else 20.0)
        rank = 20.0 if i < 33 else 9.0
        return line(
            train__grad_norm=spike,
            train__data_wait_fraction=wait,
            train__logit_scale=scale,
            health__text_effective_rank=rank,
            health__image_std=0.2 if i > 38 else 0.9,
        )

    lines = [row(i) for i in range(60)]
    entries = [{"step": i, "samples_seen": i * BATCH, **figures} for i, figures in enumerate(lines, start=1)]
    scores = {"step": 3, "samples_seen": 3 * BATCH, "dataset/acc1": "nan"}
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in [*entries[:3], scores, *entries[3:]][: cut + 1]))
    resumed = Monitor(EXPECTED)
    resumed.replay(file)
    logged = len([e for e in map(json.loads, file.read_text().splitlines()) if "train/loss" in e])
    everything = watch(lines)
    assert len({alarm.alarm for alarm in everything}) == 5
    assert watch(lines[logged:], resumed, logged + 1) == [alarm for alarm in everything if alarm.step > logged]


def test_replay_without_a_file_starts_afresh(tmp_path: Path):
    monitor = Monitor(EXPECTED)
    monitor.replay(tmp_path / "metrics.jsonl")
    assert watch([line()], monitor) == []


def test_messages_say_what_and_what_to_do_in_one_line():
    bad = {name: value for _, figures, _, _ in ONSETS for name, value in figures.items()}
    found = watch([*[line()] * 12, *[line(**bad)] * 12])
    assert {alarm.alarm for alarm in found} == {rule.name for rule in pair_alarms.RULES}
    assert not any("\n" in alarm.message for alarm in found)
    assert any("raise data.workers (now 1)" in alarm.message for alarm in found)
    assert any("12 times the usual 5: it was clipped to 1" in alarm.message for alarm in found)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_chance_is_the_loss_of_equal_logits(batch: int):
    rows = torch.nn.functional.normalize(torch.randn(batch, 8, dtype=torch.float64), dim=-1)
    nothing = torch.zeros(1, dtype=torch.float64)
    assert chance_loss("clip", batch) == pytest.approx(float(infonce(rows, rows, nothing).loss))
    if batch > 1:
        # At the bias whose sigmoid is the share of positive pairs.
        bias = nothing - math.log(batch - 1)
        assert chance_loss("siglip", batch) == pytest.approx(float(sigmoid(rows, rows, nothing, bias).loss))
    assert chance_loss("another", batch) is None
