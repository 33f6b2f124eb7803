"""The edge of a step: saves by the clock, and a stop that outlives its process."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmclip.envelope import verify
from mmclip.errors import PreemptedError
from mmclip.training.agreement import Agreement
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.scoring import in_training
from mmclip_launch.run.stopping.activity import Activity
from mmclip_launch.run.stopping.edge import Edge
from mmclip_launch.run.stopping.stop_signals import STOP_SIGNALS, StopRequest
from mmclip_launch.train import train

RUN = """
output = "none"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = { steps = 4 }
log_every_steps = 1
checkpoint = { every_steps = 4 }
evaluation = { report = false, every_steps = 2, datasets = [
  { name = "one", path = "embedded:emoji/unseen-concept-noto.tar", tasks = ["zero_shot_retrieval"] },
  { name = "two", path = "embedded:emoji/unseen-concept-noto.tar", tasks = ["zero_shot_retrieval"] },
] }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


def config(folder: Path, *flags: str) -> RunConfig:
    folder.with_suffix(".toml").write_text(RUN)
    return load_run_config(folder.with_suffix(".toml"), ["--output", str(folder), *flags])


def scores(folder: Path) -> dict[int, list[Any]]:
    """The evaluations of each step."""
    found: dict[int, list[Any]] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if "train/loss" not in line:
            found.setdefault(line["step"], []).append(line)
    return found


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def test_a_save_by_the_clock_comes_a_whole_interval_after_the_last_one():
    now = [0.0]
    edge = Edge(StopRequest(Activity()), Agreement(1), save_every_minutes=0.5, clock=lambda: now[0])
    saved = []
    for step in range(1, 121):
        now[0] += 1
        edge.meet(step)
        if edge.saves:
            saved.append(step)
        if step == 70:
            edge.saved()  # by its number
    assert saved == [30, 60, 100]


def test_a_run_saves_by_the_clock_alone(tmp_path: Path):
    folder = tmp_path / "run"
    train(config(folder, "--checkpoint.every_minutes", "1e-6", "--checkpoint.keep", "9"))
    assert steps_saved(folder) == [f"step-{step:08d}" for step in range(1, 5)]


def test_an_evaluation_is_broken_off_between_two_sets_and_made_up_for_by_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(encoder: Any, opened: Any, title: str, screen: Any) -> Any:
        if title == "step 2":
            asked.append(opened[0].dataset.config.name)
            signal.raise_signal(signal.SIGTERM)
        return real(encoder, opened, title, screen)

    real, asked = in_training.evaluate_sets, []
    train(config(tmp_path / "calm"))
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(in_training, "evaluate_sets", interrupted)
        with pytest.raises(PreemptedError, match="SIGTERM: stopped at step 2 of 4, whose checkpoint is on disk"):
            train(config(folder))
    assert asked == ["one"], "the other set was left out"
    assert steps_saved(folder) == ["step-00000002"]
    verify(folder / "checkpoints" / "step-00000002")
    assert sorted(scores(folder)) == [0]
    train(config(folder), resume=True)
    assert scores(folder) == scores(tmp_path / "calm")
    assert (folder / "ledger.jsonl").read_text() == (tmp_path / "calm" / "ledger.jsonl").read_text()


def test_a_signal_after_the_last_step_leaves_the_final_evaluation_to_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(in_training.InTraining, "of_finished", interrupted)
        with pytest.raises(
            PreemptedError, match="SIGUSR1: ended finishing after step 4, where nothing was to be saved"
        ):
            train(config(folder))
    assert not (folder / "results").exists()
    train(config(folder), resume=True)
    assert len(list((folder / "results").iterdir())) == 2
