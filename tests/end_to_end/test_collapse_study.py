"""Objectives over views against themselves without what keeps them from collapse, under the alarms of a run."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

STUDY = Path(__file__).with_name("collapse_study.py")
TWINS = {
    "simclr": ["no negatives"],
    "moco": ["no negatives"],
    "byol": ["no stop-gradient", "no predictor"],
    "simsiam": ["no stop-gradient", "no predictor"],
    "vicreg": ["no variance", "no covariance"],
    "swav": ["no even use"],
    "dino": ["no centring", "no sharpening"],
}
TOLD_BY_USE = ("swav", "no even use")
"""Its features spread over all dimensions, and all of them are sorted to one prototype."""


@dataclass(frozen=True)
class Told:
    """Of one training."""

    rank: float
    used: float | None
    alarms: list[str]


def studied(folder: Path, *options: str) -> dict[tuple[str, str | None], Told]:
    done = subprocess.run(
        [sys.executable, str(STUDY), str(folder / "study.json"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        (one["objective"], one["broken"]): Told(one["rank"], one["figures"].get("train/prototype_use"), one["alarms"])
        for one in json.loads((folder / "study.json").read_text())
    }


def judge(found: dict[tuple[str, str | None], Told], objectives: list[str]) -> None:
    """Each broken one has less than half of the effective rank of the healthy one, and the alarms know which is which."""
    assert set(found) == {(name, broken) for name in objectives for broken in (None, *TWINS[name])}
    assert {key for key, told in found.items() if told.alarms} == {key for key in found if key[1] is not None}
    for key, told in found.items():
        healthy = found[key[0], None]
        if key == TOLD_BY_USE:
            assert told.used is not None
            assert healthy.used is not None
            assert told.used < healthy.used / 10, key
        elif key[1] is not None:
            assert told.rank < healthy.rank / 2, key


def test_two_objectives_tell_in_160_steps(tmp_path: Path):
    judge(studied(tmp_path, "--steps", "160", "--only", "simclr", "vicreg"), ["simclr", "vicreg"])


@pytest.mark.slow
def test_every_healthy_objective_keeps_its_rank_and_every_broken_one_raises_an_alarm(tmp_path: Path):
    judge(studied(tmp_path), list(TWINS))
