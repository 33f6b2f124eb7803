import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.xdist_group("losses over ranks")  # one worker makes what the tests share, once

WORKER = Path(__file__).with_name("loss_worker.py")

Answers = dict[int, dict[str, Tensor]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What each number of ranks found in each case; 0 is one process without a process group."""
    folder = tmp_path_factory.mktemp("losses")
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
@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_any_number_of_ranks_gives_the_loss_and_gradients_of_one_process(
    answers: Answers, implementation: str, ranks: int
):
    """By-products too; with labels that lie wholly on one rank, across ranks, or belong to nothing."""
    found, alone = answers[ranks], answers[0]
    names = [name for name in alone if name.startswith(implementation)]
    assert len(names) == 16 * 8 + 2 * 5
    for name in names:
        expected = alone[name.replace("tiled", "reference")]
        assert float((found[name] - expected).abs().max()) <= 1e-9 * max(float(expected.abs().max()), 1e-3), name


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_gives_the_objectives_of_one_process(answers: Answers, ranks: int):
    """Three steps of each: loss, figures, gradients of features and of heads, and the state that is left (queue, teacher)."""
    found, alone = answers[ranks], answers[0]
    names = [name for name in alone if name.startswith("objective")]
    assert {name for name in found if name.startswith("objective")} == set(names)
    assert len({name.split(" / ")[1] for name in names}) == 20
    for name in names:
        expected = alone[name].nan_to_num()  # a figure that nothing in a batch has is NaN, on every rank
        assert torch.equal(found[name].isnan(), alone[name].isnan()), name
        largest = float(expected.abs().amax()) if expected.numel() else 0.0
        torch.testing.assert_close(found[name].nan_to_num(), expected, rtol=0, atol=1e-9 * max(largest, 1e-3), msg=name)


OVER_VIEWS = ("simclr", "moco", "byol", "simsiam", "vicreg", "swav", "swav, queue", "dino")


@pytest.mark.parametrize("case", ["queue", "triplet, all", "hard_negatives", *OVER_VIEWS])
def test_the_objectives_that_are_compared_have_a_gradient_and_a_queue_that_is_full(answers: Answers, case: str):
    """Else equality would say nothing."""
    at_the_end = {name.split(" / ")[-1]: value for name, value in answers[0].items() if f"/ {case} / step 2 /" in name}
    gradients = [value for name, value in at_the_end.items() if name.startswith("gradient") and value.any()]
    assert gradients
    if "queue_filled" in at_the_end:
        assert at_the_end["queue_filled"] == 1
        assert at_the_end["queue_age"] == pytest.approx((12 * 1 + 8 * 2) / 20)


def norm_and_cosine(found: Tensor, alone: Tensor) -> list[tuple[float, float]]:
    """Of the gradient of the image tower and of the text tower, against one process."""
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(found, alone, strict=True)]
    return [(float(a.norm() / b.norm()), float(torch.cosine_similarity(a, b, dim=0))) for a, b in pairs]


def test_of_the_peers_four_settings_two_change_the_gradient_and_ours_cannot(answers: Answers):
    """The table of docs/objectives.md: averaged gradients of two ranks against one process."""
    table = {
        name: norm_and_cosine(answers[2][f"flags / {name}"], answers[0][f"flags / {name}"])
        for name in ("default", "local", "grad", "both", "mmclip")
    }
    for exact in ("grad", "both", "mmclip"):
        assert table[exact] == [pytest.approx((1, 1), abs=1e-9)] * 2
    assert table["default"] == [pytest.approx((0.5, 1), abs=1e-9)] * 2
    assert all(0.45 < norm < 0.6 and 0.95 < cosine < 0.98 for norm, cosine in table["local"]), table["local"]
    for name in ("default", "grad", "both", "mmclip"):
        assert answers[2][f"scale / {name}"].item() == pytest.approx(answers[0][f"scale / {name}"].item(), rel=1e-9)
