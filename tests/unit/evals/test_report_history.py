import json
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_eval.report.training.history import History, read_history


def make_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text("global_batch_size = 8\n[length]\nsteps = 4\n")
    lines = [
        {"step": 0, "samples_seen": 0, "held-out/acc1": 0.1},
        {"step": 2, "samples_seen": 16, "train/loss": 2.0, "train/samples_per_second": 8.0},
        {"step": 4, "samples_seen": 32, "train/loss": "nan", "train/samples_per_second": 4.0},
        {"step": 4, "samples_seen": 32, "held-out/acc1": 0.5},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = [{"step": s, "samples_seen": 8 * s, "ids": "0", "loss": repr(2.0 / s)} for s in range(1, 5)]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
    return folder


def test_figures_losses_and_time_are_read(tmp_path: Path):
    history = read_history(make_run(tmp_path / "run"))
    assert history.figures["held-out/acc1"] == ((0, 4), (0.1, 0.5))
    assert history.losses == ((1, 2, 3, 4), (2.0, 1.0, pytest.approx(2 / 3), 0.5))
    assert history.figures["train/loss"][1][0] == 2.0
    assert history.figures["train/loss"][1][1] != history.figures["train/loss"][1][1]  # NaN stands as a text
    assert (history.last_step, history.samples_seen) == (4, 32)
    assert history.training_seconds == 16 / 8.0 + 16 / 4.0
    assert history.config["length"] == {"steps": 4}
    assert (history.alarms, history.bad_samples) == ((), ())


def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    whole = read_history(folder)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"step": 5, "samp')
    cut = read_history(folder)
    assert (cut.losses, cut.samples_at) == (whole.losses, whole.samples_at)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken}\n", r"metrics.jsonl, line 5: not JSON"),
        ("[1]\n", r"metrics.jsonl, line 5: expected an object with an integer `step`"),
        ('{"step": 5}\n', r"metrics.jsonl, step 5: expected a number as samples_seen, got None"),
        ('{"step": 5, "samples_seen": 1, "train/x": []}\n', r"expected a number as train/x, got \[\]"),
    ],
)
def test_any_other_damage_is_named(tmp_path: Path, line: str, message: str):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(UserError, match=message):
        read_history(folder)


def test_alarms_and_bad_samples_of_every_rank_are_read(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    alarm = {"step": 3, "samples_seen": 24, "alarm": "collapse", "message": "<b>"}
    (folder / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    for rank in (0, 1):
        entry = {"step": rank + 1, "sample_id": "a/b", "reason": f"rank {rank}", "replaced_by": "c"}
        (folder / f"quarantine.jsonl.rank{rank}").write_text(json.dumps(entry) + "\n")
    history = read_history(folder)
    assert [(a.step, a.alarm, a.message) for a in history.alarms] == [(3, "collapse", "<b>")]
    assert history.bad_samples == ("rank 0", "rank 1")


def test_weights_without_a_run_have_no_history(tmp_path: Path):
    assert read_history(None) == History() == read_history(tmp_path)


def test_a_run_that_has_just_begun_has_a_configuration_alone(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    for path in folder.glob("*.jsonl"):
        path.unlink()
    history = read_history(folder)
    assert (history.last_step, history.samples_seen, history.figures) == (0, 0, {})
    assert history.config["global_batch_size"] == 8
