import importlib.util
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_launch.run.records.trackers import METRICS, MetricWriter, TrackersConfig, build_writers

SETTINGS = {"optimizer.lr": 0.001, "model.name": "tiny"}


def record(writer: MetricWriter, steps: range) -> None:
    """Write `train/loss` = 1 / step for each step, as if 8 samples were seen at each, and close."""
    for step in steps:
        writer.write(step, 8 * step, {"train/loss": 1 / step})
    writer.close()


def metric_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_metrics_are_one_strict_json_object_a_line(tmp_path):
    writer = build_writers(TrackersConfig(), tmp_path, SETTINGS, 0, is_main=True)
    writer.write(1, 8, {"train/loss": 0.5})
    assert metric_lines(tmp_path) == [{"step": 1, "samples_seen": 8, "train/loss": 0.5}], "flushed before it is closed"
    writer.write(2, 16, {"a": math.nan, "b": -math.inf})
    writer.close()

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    last = (tmp_path / METRICS).read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=refuse) == {"step": 2, "samples_seen": 16, "a": "nan", "b": "-inf"}


def test_a_resumed_run_appends_to_its_metrics(tmp_path):
    record(build_writers(TrackersConfig(), tmp_path, SETTINGS, 0, is_main=True), range(1, 3))
    record(build_writers(TrackersConfig(), tmp_path, SETTINGS, 2, is_main=True), range(3, 5))
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 3, 4]


def test_ranks_other_than_the_main_one_leave_no_file(tmp_path):
    record(
        build_writers(TrackersConfig(tensorboard=True, wandb=True), tmp_path, SETTINGS, 0, is_main=False), range(1, 3)
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_tracker_is_named_with_the_extra_that_brings_it(name, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == name else real(module))
    with pytest.raises(UserError, match=rf"trackers\.{name} = true.*pip install \"mmclip\[{name}\]\""):
        build_writers(TrackersConfig(**{name: True}), tmp_path, SETTINGS, 0, is_main=True)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_each_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = TrackersConfig(tensorboard=True)
    record(build_writers(trackers, tmp_path, SETTINGS, 0, is_main=True), range(1, 6))
    record(build_writers(trackers, tmp_path, SETTINGS, 3, is_main=True), range(4, 8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("train/loss")
    assert [(event.step, event.value) for event in losses] == [(s, pytest.approx(1 / s)) for s in range(1, 8)]
    assert [event.value for event in events.Scalars("samples_seen")] == [8.0 * s for s in range(1, 8)]
    [first, _] = events.Tensors("config/text_summary")
    assert b"| optimizer.lr | `0.001` |" in first.tensor_proto.string_val[0]


@pytest.mark.slow
def test_wandb_stores_rows_offline_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    import wandb

    folder = tmp_path / "some-run"
    folder.mkdir()
    trackers = TrackersConfig(wandb=True, project="tests")
    record(build_writers(trackers, folder, SETTINGS, 0, is_main=True), range(1, 4))
    record(build_writers(trackers, folder, SETTINGS, 3, is_main=True), range(4, 6))
    wandb.teardown()  # W&B's own process may still be writing when a run has finished; this waits until it has ended
    stores = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in stores}) == 1, "one id for both parts of the run"
    rows = sorted(row for path in stores for row in wandb_rows(path))
    assert rows == [(s, 8 * s, 1 / s) for s in range(1, 6)]


def wandb_rows(path: Path) -> list[tuple[int, int, float]]:
    """(step, samples seen, loss) of every history row in W&B's offline store."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in leveldb_records(path.read_bytes()):
        message = wandb_internal_pb2.Record()
        message.ParseFromString(data)
        if message.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in message.history.item
            }
            rows.append((items["_step"], items["samples_seen"], items["train/loss"]))
    return rows


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log with W&B's 7-byte header: chunks of (crc, size, kind) that cross no 32 KiB block."""
    block, header, position, record = 32768, 7, 7, b""
    while position + header <= len(data):
        if (left := block - position % block) < header:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + header : position + header + size]
        position += header + size
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield record
            record = b""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="trackio needs pillow < 13, not in constraints.txt"
)
def test_trackio_stores_rows_locally_and_a_resumed_run_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    import trackio

    folder = tmp_path / "some-run"
    folder.mkdir()
    trackers = TrackersConfig(trackio=True, project="tests")
    record(build_writers(trackers, folder, SETTINGS, 0, is_main=True), range(1, 4))
    record(build_writers(trackers, folder, SETTINGS, 3, is_main=True), range(4, 6))
    [run] = trackio.Api().runs("tests")
    logs = trackio.SQLiteStorage.get_logs("tests", run.name)
    rows = [(row["step"], row["samples_seen"], row["train/loss"]) for row in logs]
    assert rows == [(s, 8 * s, 1 / s) for s in range(1, 6)]
