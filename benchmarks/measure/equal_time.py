"""Training runs of equal CPU time: a few steps of each tell how many it may take, so that its schedule comes to its end.

Every run is `mmclip train` with a packaged recipe and overrides, in a process of its own with one thread, watched by
`probe.py`. What is made equal is the CPU time of the optimizer steps, loading included: the wall clock of a machine that does
something else too says nothing of a recipe. Imports, the first steps and the checkpoint at the end count for none.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from mmclip_launch.run.config_files import run_file

PROBE = Path(__file__).parent / "probe.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WARM = 3
"""Steps at the start that cost more than others, and are not counted."""
# Loaded in the training process, so that its CPU time is all of it; nothing is saved, drawn or measured on the way.
ALONE = {
    "precision": "fp32",
    "device": "cpu",
    "log_every_steps": 50,
    "data": {"workers": 0},
    "checkpoint": {"every_steps": 1_000_000, "keep": 1},
    "evaluation": {"report": False},
}
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Training:
    """One run: a recipe that comes with mmclip, and what is different here."""

    name: str
    recipe: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """What became of it."""

    folder: Path
    """The run folder."""
    steps: int
    seconds: float
    """CPU time of its steps."""


def train_equally(
    trainings: Sequence[Training],
    folder: Path,
    seconds: float,
    at_once: int,
    calibration_steps: int,
    then: Callable[[str, Trained], None] = lambda name, trained: None,
) -> dict[str, Trained]:
    """Train each for as many steps as take `seconds` of CPU time; `at_once` runs share the machine, in both passes.

    `then` is called with the name and the outcome of each as soon as it is there, in the thread of its run.
    """
    paces = calibrate(trainings, folder / "calibration", calibration_steps, at_once)

    def whole(training: Training) -> Trained:
        steps = max(WARM + 2, round(seconds / paces[training.recipe]))
        trained = train(training, steps, folder / training.name)
        print(f"  {training.name}: {steps} steps, {trained.seconds:.1f} CPU s", flush=True)
        then(training.name, trained)
        return trained

    return dict(zip((one.name for one in trainings), in_threads(whole, trainings, at_once), strict=True))


def calibrate(trainings: Sequence[Training], folder: Path, steps: int, at_once: int) -> dict[str, float]:
    """CPU seconds of a step of each recipe, in a short run of its own."""
    recipes = list({training.recipe: training for training in trainings}.values())

    def short(training: Training) -> float:
        trained = train(training, steps, folder / training.recipe)
        return trained.seconds / trained.steps

    paces = dict(zip((one.recipe for one in recipes), in_threads(short, recipes, at_once), strict=True))
    print("CPU seconds a step:", ", ".join(f"{recipe} {pace:.3f}" for recipe, pace in paces.items()), flush=True)
    return paces


def train(training: Training, steps: int, folder: Path) -> Trained:
    """Run it to its end.

    Raises:
        RuntimeError: it failed, or took another number of steps.
    """
    folder.mkdir(parents=True)
    path, notes_path, log = folder / "run.toml", folder / "notes.json", folder / "log.txt"
    path.write_text(tomli_w.dumps(settings_of(training, steps, folder / "run")))
    command = [sys.executable, "-P", str(PROBE), str(notes_path), "mmclip_launch.train", str(path)]
    with log.open("w") as output:
        done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, stdout=output, stderr=output, check=False)
    notes = json.loads(notes_path.read_text()) if notes_path.is_file() else []
    if done.returncode or len(notes) != steps:
        raise RuntimeError(
            f"{training.name}: code {done.returncode}, {len(notes)} of {steps} steps:\n{log.read_text()[-3000:]}"
        )
    return Trained(folder / "run", steps, seconds_of(notes))


def settings_of(training: Training, steps: int, output: Path) -> dict[str, Any]:
    """The run file: the recipe, under what holds for all runs, under the run's own."""
    recipe = tomllib.loads(run_file(training.recipe).read_text())
    fixed = {**ALONE, "output": str(output), "length": {"steps": steps}}
    settings = laid_over(laid_over(recipe, fixed), training.overrides)
    return {**settings, "length": fixed["length"]}


def laid_over(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with the entries of `over`, table by table; where the two are objectives of another type, that of `over`."""
    joined = dict(table)
    for name, value in over.items():
        below = joined.get(name)
        joined[name] = laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return joined


def seconds_of(notes: Sequence[tuple[float, float]]) -> float:
    """CPU time of all steps, from that of those behind the warm ones."""
    warm = min(WARM, len(notes) - 2)
    cpu = [seconds for _, seconds in notes]
    return (cpu[-1] - cpu[warm]) / (len(cpu) - 1 - warm) * len(cpu)


def in_threads(call: Callable[[S], T], jobs: Sequence[S], at_once: int) -> list[T]:
    """The results in the order of the jobs, of which `at_once` run together."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(call, jobs))
