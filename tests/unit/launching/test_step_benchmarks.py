"""The benchmarks of whole steps: both sides train alike, and each section for a device runs, here at toy size on a CPU."""

import importlib
import json
import math
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SECTIONS = ("ceilings", "steps", "text_groups", "loss", "end_to_end", "large_batch")
WITHOUT_PEER = ("ceilings", "large_batch")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks' modules, which are scripts and stand in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    names = ("measure.captions", "measure.trainers", "measure.results_page", "measure.document", "train_step", "gpu")
    try:
        found = {name.split(".")[-1]: importlib.import_module(name) for name in names}
        yield found | {name: importlib.import_module(f"device.{name}") for name in ("plan", "notes", "scale", "shards")}
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_lengths_of_captions_follow_the_law(bench: dict[str, ModuleType]):
    law = bench["captions"]
    drawn = law.lengths(100_000, 10_000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(16, rel=0.01)
    assert drawn.std() == pytest.approx(10, rel=0.03)
    assert np.median(drawn) == pytest.approx(16 / math.sqrt(1 + (10 / 16) ** 2), abs=0.6)
    assert law.lengths(100_000, 77, np.random.default_rng(0)).max() == 77


def test_made_captions_end_where_the_law_says(bench: dict[str, ModuleType]):
    law = bench["captions"]
    tokens = law.captions(64, {"context_length": 40, "vocab_size": 1000}, seed=3)
    lengths = law.lengths(64, 40, np.random.default_rng(3))
    for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
        assert (row[0], row[length - 1]) == (998, 999)
        assert all(0 < token < 998 for token in row[1 : length - 1])
        assert row[length:] == [0] * (40 - length)


def test_both_trainers_take_the_same_steps(bench: dict[str, ModuleType]):
    trainers, scale = bench["trainers"], bench["scale"]
    batch = bench["captions"].pairs(8, scale.TOY)
    ours = trainers.Ours(scale.TOY, CPU, batch=8)
    peer = trainers.Peer(scale.TOY, ours.towers.backbone.state_dict(), CPU)
    mine, theirs = ours.prepared(batch), peer.prepared(batch)
    losses = [(float(ours.run(mine)), float(peer.run(theirs))) for _ in range(4)]
    assert [a for a, _ in losses] == pytest.approx([b for _, b in losses], rel=1e-5)
    assert losses[-1][0] < losses[0][0], "they learn"


def test_the_step_benchmark_compares_sides_that_agree(bench: dict[str, ModuleType]):
    step, cfg = bench["train_step"], bench["scale"].TOY
    ours = bench["trainers"].Ours(cfg, CPU, batch=8)
    peer = bench["trainers"].Peer(cfg, ours.towers.backbone.state_dict(), CPU)
    text, text_difference = step.text_rows(ours, peer, bench["captions"].captions(16, cfg["text_cfg"], 1), 1)
    steps, loss_difference = step.step_rows(ours, peer, cfg, 8, 1)
    rows = [*steps, *text, *step.optimizer_rows("optimizer", ours, peer, 1)]
    cases = ("b32_fp32", "b32_bf16_vs_fp32", "text_tower", "optimizer")
    assert [(row.case, row.metric) for row in rows] == [
        (case, f"{m} seconds") for case in cases for m in ("CPU", "wall")
    ]
    assert max(text_difference, loss_difference) < 1e-5


def test_optimizers_alone_update_alike_in_processes_of_their_own(bench: dict[str, ModuleType]):
    rows, difference = bench["train_step"].optimizer_alone_rows(bench["scale"].TOY, 1, 1)
    assert [(row.case, row.metric) for row in rows] == [("optimizer", "CPU seconds"), ("optimizer", "wall seconds")]
    assert difference < 1e-9, "the same weights, gradients, settings, and so the same update"


def test_sides_that_differ_are_no_benchmark(bench: dict[str, ModuleType]):
    agreement, loss = bench["train_step"].agreement, torch.tensor(2.0)
    assert agreement("loss", loss * (1 + 5e-5), loss) == pytest.approx(5e-5, rel=0.01)
    for other in (loss * 1.001, loss * math.nan):
        with pytest.raises(RuntimeError, match="loss: the two sides differ by"):
            agreement("loss", other, loss)


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_for_a_device_notes_figures(bench: dict[str, ModuleType], name: str, tmp_path: Path):
    (section,) = (section for section in bench["plan"].SECTIONS if section.name == name)
    notes = bench["notes"].Notes(tmp_path / "notes")
    section.run(notes, bench["scale"].TINY, CPU)
    found = bench["notes"].read(notes.path)
    assert found["absent"] == []
    assert found["figures"]
    assert bool(found["rows"]) == (name not in WITHOUT_PEER)
    page = bench["results_page"].section("gpu", document(bench, found))
    assert any("open_clip" in line or name in WITHOUT_PEER for line in page)


def document(bench: dict[str, ModuleType], found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    machine = {"cpu": "a cpu", "cores": 2, "memory_gib": 1.0, "system": "a system"}
    rest = {"machine": machine, "versions": {"torch": "2"}, "date": "2026-11-27", "settings": {}}
    made = {**rest, "rows": found["rows"], "figures": found["figures"]}
    bench["document"].check(made)
    return made


def test_every_section_has_time_within_ten_minutes(bench: dict[str, ModuleType]):
    assert {*SECTIONS, "compiled_b32", "compiled_b16", "compiled_l14"} == {
        section.name for section in bench["plan"].SECTIONS
    }
    assert sum(section.seconds for section in bench["plan"].SECTIONS) <= bench["gpu"].MOST_SECONDS < 600


def test_a_section_cut_off_keeps_what_it_has_noted(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "loss"

    def cut_off(command: list[str], timeout: float, check: bool) -> None:
        bench["notes"].Notes(path).figure("a case", "samples/s", 2.0)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", cut_off)
    section = next(section for section in bench["plan"].SECTIONS if section.name == "loss")
    found = bench["gpu"].supervise(section, path, Namespace(device="cpu", tiny=True), 20.0)
    assert found["figures"] == [{"case": "a case", "metric": "samples/s", "value": 2.0}]
    assert found["absent"] == [{"case": "loss", "reason": "cut off after 20 s"}]


def test_what_does_not_fit_is_noted_and_the_section_goes_on(bench: dict[str, ModuleType], tmp_path: Path):
    notes = bench["notes"].Notes(tmp_path / "notes")
    with notes.unless_too_large("a batch"):
        raise torch.OutOfMemoryError("too large")
    assert bench["notes"].read(notes.path)["absent"] == [
        {"case": "a batch", "reason": "does not fit the device's memory"}
    ]


@pytest.mark.parametrize("arguments", [[], ["--device", "cpu"]])
def test_without_a_device_there_is_one_message(
    bench: dict[str, ModuleType], arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench["gpu"].main() == 2
    assert capsys.readouterr().err == bench["gpu"].NO_DEVICE + "\n"


@pytest.mark.slow  # compiling cannot read the checks of shapes that pytest adds, so it has processes of its own
def test_the_whole_benchmark_for_a_device_writes_its_file(tmp_path: Path):
    output = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--tiny", "--sections", "ceilings,compiled_b32", "--output", str(output)]
    subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py"), *words], check=True)
    written = json.loads(output.read_text())
    assert written["settings"]["device"] == {"name": "cpu"}
    assert written["settings"]["absent"] == []
    assert {row["case"] for row in written["rows"]} == {"step toy, batch 8, bf16, compiled"}
    assert any(figure["case"].startswith("GEMM") for figure in written["figures"])


def test_the_page_of_results_is_that_of_the_files(bench: dict[str, ModuleType]):
    page = bench["results_page"]
    assert page.page(page.RESULTS) == page.PAGE.read_text(), "PYTHONPATH=benchmarks python -m measure.results_page"


def test_a_page_of_results_by_hand(bench: dict[str, ModuleType], tmp_path: Path):
    row = {"case": "c", "metric": "s", "ours": 2.0, "peer": 12345.6, "peer_name": "p 1", "ratio": 2.5}
    row |= {"ratio_low": 2.25, "ratio_high": 3.0}
    found = {"rows": [row], "figures": [{"case": "GEMM", "metric": "TFLOP/s", "value": 0.125}]}
    (tmp_path / "name.json").write_text(json.dumps(document(bench, found)))
    lines = bench["results_page"].page(tmp_path).splitlines()
    assert lines[lines.index("## name") + 2] == "2026-11-27 · 2 cores of a cpu · 1 GiB · a system"
    assert "| c | s | 2 | 12,346 | p 1 | 2.50 | 2.25 to 3.00 |" in lines
    assert "| GEMM | TFLOP/s | 0.125 |" in lines
