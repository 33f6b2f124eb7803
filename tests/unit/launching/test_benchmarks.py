"""What the benchmarks do to their measurements, and the files that the README quotes."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
POSITIVE = st.floats(1e-6, 1e6)


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks' modules, which are scripts and stand in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    names = ("ratios", "interleave", "document", "peer", "memory")
    try:
        found = {name: importlib.import_module(f"measure.{name}") for name in names}
        yield found | {name: importlib.import_module(name) for name in ("epoch", "end_to_end", "loss")}
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_ratio_above_one_means_better_whichever_way_the_metric_points(bench: dict[str, ModuleType]):
    compare = bench["ratios"].compare
    speed = compare("case", "samples/s", [30.0, 40.0, 20.0], [10.0, 10.0, 10.0], "peer", higher_is_better=True)
    assert (speed.ours, speed.peer, speed.ratio, speed.ratio_low, speed.ratio_high) == (30, 10, 3, 2, 4)
    seconds = compare("case", "seconds", [1.0, 2.0], [4.0, 2.0], "peer", higher_is_better=False)
    assert (seconds.ratio, seconds.ratio_low, seconds.ratio_high) == (2.5, 1, 4)


@given(pairs=st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=9), higher=st.booleans())
def test_ratio_is_the_median_of_the_pairs_and_lies_in_its_spread(
    bench: dict[str, ModuleType], pairs: list[tuple[float, float]], higher: bool
):
    ours, peer = zip(*pairs, strict=True)
    row = bench["ratios"].compare("case", "metric", ours, peer, "peer", higher_is_better=higher)
    quotients = [a / b if higher else b / a for a, b in pairs]
    assert row.ratio_low == min(quotients) <= row.ratio == median(quotients) <= row.ratio_high == max(quotients)


@pytest.mark.parametrize(
    ("ours", "peer"), [([1.0], [0.0]), ([0.0], [1.0]), ([1.0, 1.0], [1.0]), ([], []), ([float("nan")], [1.0])]
)
def test_what_has_no_ratio_is_refused(bench: dict[str, ModuleType], ours: list[float], peer: list[float]):
    with pytest.raises(ValueError, match=r"case, metric: "):
        bench["ratios"].compare("case", "metric", ours, peer, "peer", higher_is_better=True)


def test_sides_are_called_in_turn(bench: dict[str, ModuleType]):
    calls: list[str] = []
    sides = {name: lambda round_, name=name: calls.append(f"{name}{round_}") or round_ for name in ("A", "B")}
    assert bench["interleave"].interleave(sides, 3) == {"A": [0, 1, 2], "B": [0, 1, 2]}
    assert calls == ["A0", "B0", "A1", "B1", "A2", "B2"]


def test_a_finished_benchmark_is_a_file_of_the_agreed_form(bench: dict[str, ModuleType], tmp_path: Path, capsys):
    row = bench["ratios"].compare("case", "samples/s", [30.0], [10.0], "peer 1.0", higher_is_better=True)
    path = bench["document"].finish("name", [row], {"peer torch": "2"}, {"steps": 3}, tmp_path / "new" / "name.json")
    document = json.loads(path.read_text())
    bench["document"].check(document)
    assert document["rows"][0]["ratio"] == 3
    assert {"mmclip", "torch", "python", "peer torch"} <= set(document["versions"])
    assert "3.00 to 3.00" in capsys.readouterr().out


def test_figures_that_contradict_each_other_are_refused(bench: dict[str, ModuleType]):
    figures = {"ours": 1.0, "peer": 1.0, "ratio": 3.0, "ratio_low": 1.0, "ratio_high": 2.0}
    row = {"case": "case", "metric": "metric", "peer_name": "peer", **figures}
    document = {"machine": {}, "versions": {}, "date": "2026-11-22", "settings": {}, "rows": [row]}
    with pytest.raises(ValueError, match="outside its spread"):
        bench["document"].check(document)
    with pytest.raises(ValueError, match="no rows and no figures"):
        bench["document"].check({**document, "rows": []})
    with pytest.raises(ValueError, match="expected positive figures"):
        bench["document"].check({**document, "rows": [{**row, "ours": 0.0}]})


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda path: path.stem)
def test_committed_results_have_the_agreed_form_and_a_benchmark(bench: dict[str, ModuleType], path: Path):
    bench["document"].check(json.loads(path.read_text()))
    benchmark, _, _ = path.stem.partition("_with_")  # results of another kind of machine stand beside
    assert (BENCHMARKS / f"{benchmark}.py").is_file()


def test_steady_figures_leave_out_the_warm_steps(bench: dict[str, ModuleType]):
    train = bench["end_to_end"]
    notes = [[110.0, 9.0], [111.0, 10.0], [113.0, 13.0], [115.0, 16.0]]
    figures = train.figures_of(notes, train.Length(steps=4, warm=2, batch=8), started=100.0, ended=120.0)
    assert list(figures.values()) == [16 / 4.0, 6.0 / 16 * 1000, 10.0, 20.0]
    assert list(figures) == list(train.METRICS)


def test_shares_of_an_epoch_are_counted_by_hand(bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch):
    epoch = bench["epoch"]
    monkeypatch.setattr(epoch, "SAMPLES", 6)
    monkeypatch.setattr(epoch, "BATCH", 3)
    handed_out = [[0, 1, 2], [2, 3, 3]]
    assert epoch.share_once(handed_out) == 2 / 6
    assert epoch.share_seen(handed_out) == 4 / 6
    assert epoch.overlaps([handed_out], [[[2, 0, 9], [4, 5, 0]]]) == [(2 / 3 + 0) / 2]


def test_our_side_of_the_epoch_benchmark_hands_out_each_sample_once(bench: dict[str, ModuleType], tmp_path: Path):
    epoch = bench["epoch"]
    epoch.make_shards(tmp_path)
    alone, split = epoch.our_epochs(tmp_path, 1, 0), epoch.our_epochs(tmp_path, 2, 0)
    assert [sorted(number for batch in e for number in batch) for e in alone] == [list(range(240))] * epoch.EPOCHS
    assert alone == split
    assert alone[0] != alone[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_inside_the_call_and_not_what_was_freed_or_is_left(bench: dict[str, ModuleType]):
    mebibytes = 48

    def rise_and_fall() -> None:
        for _ in range(3):  # freed each time: the peak is that of one
            memoryview(bytearray(b"x") * (mebibytes << 20)).release()

    rise_and_fall()
    grown = bench["memory"].peak_growth(rise_and_fall) / 2**20
    assert mebibytes - 1 < grown < mebibytes + 8


def test_both_sides_of_the_loss_benchmark_do_the_same_work(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
):
    loss = bench["loss"]
    assert all(loss.check_equal(name, 64) < 1e-6 for name in loss.CASES)
    monkeypatch.setitem(loss.OURS, "infonce", lambda image, text, scale: loss.infonce(image, text, 1.001 * scale))
    with pytest.raises(RuntimeError, match="infonce: losses or gradients differ"):
        loss.check_equal("infonce", 64)


def test_probe_notes_every_optimizer_step_of_a_run_as_main(tmp_path: Path):
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(
        "import sys, torch\nassert __name__ == '__main__'\nweight = torch.nn.Parameter(torch.ones(2))\n"
        "optimizer = torch.optim.SGD([weight], lr=0.1)\n"
        "for _ in range(int(sys.argv[1])):\n    weight.sum().backward()\n    optimizer.step()\n"
    )
    command = [sys.executable, "-P", str(BENCHMARKS / "measure" / "probe.py"), "notes.json", "trainer.run", "4"]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True)
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert len(notes) == 4
    assert notes == sorted(notes)
    assert all(cpu > 0 for _, cpu in notes)


def test_peer_takes_our_versions_of_all_but_what_it_pins_itself(bench: dict[str, ModuleType]):
    ours = (BENCHMARKS.parent / "constraints.txt").read_text().splitlines()
    peers = bench["peer"].constraints(("WebDataset",)).splitlines()
    assert set(ours) - set(peers) == {line for line in ours if line.startswith("webdataset==")} != set()
