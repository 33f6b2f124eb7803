"""What holds for every objective of the registry; the cases are generated from it, so a new one is held to it too."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from mmclip.release import load

pytestmark = pytest.mark.xdist_group("every objective")  # one worker makes what the tests share, once

CASES = tuple(runpy.run_path(str(Path(__file__).with_name("objective_runs.py")))["cases"]())
WORKER = Path(__file__).with_name("objective_worker.py")
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "one": [sys.executable],
    "two": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"],
    "three": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "3"],
}
SLICES = ("micro-batches", "two ranks", "three ranks")
"""How the same batch is cut."""


Answers = Callable[[str], Path]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The folder of a number of processes, made when it is asked for."""

    @cache
    def of(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        done = subprocess.run(
            [*LAUNCHERS[name], str(WORKER), str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return of


@pytest.mark.parametrize("cut", [*SLICES[:-1], pytest.param(SLICES[-1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_a_batch_in_slices_teaches_what_the_whole_batch_teaches(answers: Answers, case: str, cut: str):
    """Gradients and figures of three steps, and then weights, moments, heads, queues, centres and teachers."""
    whole = load_file(answers("one") / f"{case}.safetensors")
    if cut == "micro-batches":
        sliced = load_file(answers("one") / f"{case} in pieces.safetensors")
    else:
        sliced = load_file(answers(cut.removesuffix(" ranks")) / f"{case}.safetensors")
    assert sliced.keys() == whole.keys()
    assert any(name.startswith("step 0 towers.") for name in whole)
    for name, expected in whole.items():
        scale = expected.nan_to_num().abs().max().item() if expected.is_floating_point() else 0
        # Behind Adam's division rounding is no longer small beside a weight whose gradient is nothing but rounding.
        first = name.startswith("step 0")
        rtol, atol = (1e-9, 1e-9 * scale + 1e-15) if first else (1e-6, 1e-6 * scale + 1e-10)
        torch.testing.assert_close(sliced[name], expected, rtol=rtol, atol=atol, equal_nan=True, msg=f"{case}: {name}")


@pytest.mark.parametrize("case", CASES)
def test_the_released_model_holds_no_head_and_opens_in_open_clip(answers: Answers, case: str):
    folder = answers("one") / f"saved {case}"
    stock: Any = open_clip.create_model(f"local-dir:{folder}").eval()
    ours = load(str(folder))
    assert set(load_file(folder / "open_clip_model.safetensors")) == set(stock.state_dict())
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = stock.encode_image(pictures)
        torch.testing.assert_close(ours.eval().encode_image(pictures), expected, rtol=1e-5, atol=1e-5)


def test_one_process_keeps_its_state_in_a_pass_and_its_bits_over_a_resume(answers: Answers):
    """Asked by the worker itself, of each case, before it ends with 0; this is where it is counted."""
    assert all((answers("one") / f"saved {case}" / "training_state.json").is_file() for case in CASES)
