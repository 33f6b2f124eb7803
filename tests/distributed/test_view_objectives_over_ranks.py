import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.xdist_group("view objectives over ranks")  # one worker makes what the tests share, once

WORKER = Path(__file__).with_name("view_objective_worker.py")
CASES = {
    "byol",
    "byol with batch norm",
    "simsiam",
    "simsiam with batch norm",
    "vicreg",
    "vicreg with batch norm",
    "swav",
}
CASES |= {"swav with a queue", "dino", "masked", "masked, noise", "masked, teacher's tokens"}

Answers = dict[int, dict[str, Tensor]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What each number of ranks found in each case; 0 is one process without a process group."""
    folder = tmp_path_factory.mktemp("view-objectives")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {ranks: load_file(folder / f"{ranks}.safetensors") for ranks in range(4)}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("case", sorted(CASES))
def test_two_steps_over_ranks_leave_what_one_process_leaves(answers: Answers, case: str, ranks: int):
    """Loss, figures, gradients of features and of heads, and state: teacher's heads, centre."""
    found, alone = answers[ranks], answers[0]
    names = [name for name in alone if name.startswith(f"{case} / ")]
    assert {name.split(" / ")[2].split(" ")[0] for name in names} >= {"loss", "input", "gradient", "state"}
    for name in names:
        expected = alone[name]
        assert float((found[name] - expected).abs().max()) <= 1e-9 * max(float(expected.abs().max()), 1e-3), name


def test_every_case_is_compared(answers: Answers):
    assert {name.split(" / ")[0] for name in answers[0]} == CASES
