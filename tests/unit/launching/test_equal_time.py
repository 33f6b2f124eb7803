"""Benchmarks of objectives at equal CPU time: their runs, their probe, their intervals."""

import gzip
import importlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mmclip_data.pipelines.idx import IdxConfig, make_idx
from mmclip_eval.probes.logistic import Examples
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.tables import from_table

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
NAMES = ("equal_time", "frozen_probe", "pictures", "document", "results_page")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks' modules, which are scripts and stand in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        found = {name: importlib.import_module(f"measure.{name}") for name in NAMES}
        yield found | {name: importlib.import_module(name) for name in ("self_supervised", "objectives")}
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_run_of_both_benchmarks_is_a_run_file_that_loads(bench: dict[str, ModuleType], tmp_path: Path):
    pictures, pairs = bench["self_supervised"], bench["objectives"]
    trainings = [pictures.training_of(recipe, tmp_path) for recipe in pictures.TUNED]
    trainings += [pairs.training_of(recipe, 1) for recipe in pairs.OWN]
    for training in trainings:
        table = bench["equal_time"].settings_of(training, 7, tmp_path / "run")
        config = from_table(RunConfig, table, training.name)
        assert config.length.steps == 7
        assert config.length.epochs is None
        assert config.model.inline in (pictures.ARCH, pairs.ARCH)
        assert config.data.workers == 0  # else the CPU time of loading would be another process's
        assert config.data.image_only == (training.recipe in pictures.TUNED)


def test_what_is_laid_over_a_recipe_leaves_the_rest_of_its_tables(bench: dict[str, ModuleType]):
    recipe = {"lr": 1, "data": {"source": {"type": "tars"}, "workers": 1}, "length": {"epochs": 2}}
    over = {"data": {"workers": 0, "views": []}, "lr": 2}
    found = bench["equal_time"].laid_over(recipe, over)
    assert found == {
        "lr": 2,
        "data": {"source": {"type": "tars"}, "workers": 0, "views": []},
        "length": {"epochs": 2},
    }
    assert recipe["data"] == {"source": {"type": "tars"}, "workers": 1}


def test_each_recipe_gets_the_steps_that_its_own_pace_allows(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    equal_time = bench["equal_time"]
    paces = {"cheap": 0.5, "dear": 2.0}

    def train(training: SimpleNamespace, steps: int, folder: Path) -> SimpleNamespace:
        return equal_time.Trained(folder / "run", steps, steps * paces[training.recipe])

    monkeypatch.setattr(equal_time, "train", train)
    trainings = [equal_time.Training(f"{recipe}-{seed}", recipe, {}) for seed in range(2) for recipe in paces]
    found = equal_time.train_equally(trainings, tmp_path, 60.0, 2, 5)
    assert {name: (run.steps, run.seconds) for name, run in found.items()} == {
        "cheap-0": (120, 60.0),
        "dear-0": (30, 60.0),
        "cheap-1": (120, 60.0),
        "dear-1": (30, 60.0),
    }


def test_cpu_time_of_a_run_leaves_its_first_steps_out(bench: dict[str, ModuleType]):
    notes = [(0.0, cpu) for cpu in (50.0, 60.0, 61.0, 62.0, 64.0, 66.0, 68.0)]  # starting cost 50, then 2 s a step
    assert bench["equal_time"].seconds_of(notes) == 2.0 * 7
    assert bench["equal_time"].seconds_of(notes[:2]) == 10.0 * 2


def test_a_probe_finds_classes_whatever_the_scale_and_the_constant_part_of_features(bench: dict[str, ModuleType]):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    clean = torch.eye(4)[labels] + 0.4 * torch.randn(400, 4, generator=generator)
    constant = torch.full((400, 1), 3.0)
    probed = bench["frozen_probe"].probed
    found = [
        probed(Examples(features[:200], labels[:200]), Examples(features[200:], labels[200:]), 4)
        for features in (clean, torch.cat([1e-3 * clean + 7.0, constant], dim=1))
    ]
    assert found[0].accuracy == pytest.approx(found[1].accuracy, abs=0.011)
    assert found[0].accuracy > 0.85
    assert found[0].interval[0] < found[0].accuracy < found[0].interval[1]
    noise = torch.randn(400, 4, generator=generator)
    guessed = probed(Examples(noise[:200], labels[:200]), Examples(noise[200:], labels[200:]), 4)
    assert guessed.interval[0] < 0.25 < guessed.interval[1]


def test_the_random_tower_is_the_one_that_a_run_starts_from(bench: dict[str, ModuleType], tmp_path: Path):
    start_of, training_of = bench["self_supervised"].start_of, bench["self_supervised"].training_of
    towers = [start_of(training_of(recipe, tmp_path)) for recipe in ("simclr", "mae")]
    pixels = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, second = (bench["pictures"].pooled_features(tower, pixels) for tower in towers)
    assert first.shape == (4, 96)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_differences_to_the_baseline_are_those_of_pictures_under_one_seed(bench: dict[str, ModuleType], tmp_path: Path):
    pairs, Trained = bench["objectives"], bench["equal_time"].Trained
    runs = [Trained(tmp_path, 5, 1.0), Trained(tmp_path, 5, 3.0)]
    baseline = {"set": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])}
    other = {"set": torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])}
    figures = {figure["metric"]: figure for figure in pairs.figures_of("slip", runs, other, baseline)}
    assert figures["CPU seconds"]["value"] == 2.0
    assert figures["set"] == {"case": "slip", "metric": "set", "value": 1.0, "low": 1.0, "high": 1.0}
    beside = figures["set, beside clip"]
    assert beside["value"] == 7 / 8
    assert 0.5 <= beside["low"] < 7 / 8 < beside["high"] == 1.0
    assert "set, beside clip" not in [figure["metric"] for figure in pairs.figures_of("clip", runs, other, other)]


def test_figures_with_intervals_may_be_differences_and_stand_in_a_line_a_case(bench: dict[str, ModuleType]):
    figures = [
        {"case": "a", "metric": "steps", "value": 12},
        {"case": "a", "metric": "beside b", "value": -0.25, "low": -0.5, "high": 0.0},
        {"case": "b", "metric": "steps", "value": 7},
    ]
    document = {
        "machine": {"cores": 2, "cpu": "one", "memory_gib": 8, "system": "Linux"},
        "versions": {"torch": "2"},
        "date": "2026-11-28",
        "settings": {"wide": True},
        "rows": [],
        "figures": figures,
    }
    bench["document"].check(document)
    lines = list(bench["results_page"].section("name", document))
    assert lines[-5:] == [
        "| case | steps | beside b |",
        "|---|---|---|",
        "| a | 12 | -0.25 (-0.5 to 0) |",
        "| b | 7 | - |",
        "",
    ]
    with pytest.raises(ValueError, match="inside its interval"):
        bench["document"].check({**document, "figures": [{**figures[1], "low": -0.2}]})
    with pytest.raises(ValueError, match="a positive value"):
        bench["document"].check({**document, "figures": [{**figures[0], "value": -1}]})


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's format."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 200 and 60 noisy bars in ten places, in Fashion-MNIST's form."""
    source, rng = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for split, count in (("train", 200), ("t10k", 60)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 120, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 2 : 2 * label + 5] += 130
        write_idx(source / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(source / f"{split}-labels-idx1-ubyte.gz", labels)
    output = tmp_path_factory.mktemp("shards") / "clothes"
    make_idx(IdxConfig(output=output, source=source))
    return output


@pytest.mark.slow
def test_objectives_over_pictures_are_trained_probed_and_tabulated_by_one_command(
    bench: dict[str, ModuleType], clothes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "found.json"
    quick = ["--seconds", "2", "--calibration", "5", "--examples", "15", "--recipes", "simclr", "mae"]
    monkeypatch.setattr(sys, "argv", ["self_supervised", *quick, "--data", str(clothes), "--output", str(path)])
    bench["self_supervised"].main()
    document = json.loads(path.read_text())
    bench["document"].check(document)
    figures = {(figure["case"], figure["metric"]): figure for figure in document["figures"]}
    assert {case for case, _ in figures} == {"pixels", "random tower", "simclr", "mae"}
    assert figures["simclr", "steps"]["value"] < figures["mae", "steps"]["value"]  # two views, and a quarter of one
    assert all(1 <= figures[case, "effective rank"]["value"] <= 60 for case in ("random tower", "simclr", "mae"))
    assert figures["pixels", "probe accuracy"]["value"] > 0.9


@pytest.mark.slow
def test_objectives_over_pairs_are_trained_measured_and_tabulated_by_one_command(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "found.json"
    quick = ["--seconds", "2", "--calibration", "5", "--seeds", "1", "--recipes", "flip"]
    monkeypatch.setattr(sys, "argv", ["objectives", *quick, "--output", str(path)])
    bench["objectives"].main()
    document = json.loads(path.read_text())
    bench["document"].check(document)
    found = {(figure["case"], figure["metric"]) for figure in document["figures"]}
    assert ("clip", "unseen style") in found
    assert ("flip", "unseen names, beside clip") in found
