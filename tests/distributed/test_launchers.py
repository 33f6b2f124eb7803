"""Plain python, accelerate and torchrun start the same run, and any of them goes on with what another began."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.xdist_group("launchers")  # one worker makes what the tests share, once

LAUNCH = Path(__file__).parents[2] / "launch"


def difference(one: Path, other: Path) -> float:
    """The largest difference of any weight or moment, relative to the largest of its tensor."""
    largest = 0.0
    for name in ("open_clip_model.safetensors", "optimizer.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            scale = max(float(tensor.abs().max()), 1e-3)
            largest = max(largest, float((tensor - theirs[key]).abs().max()) / scale)
    return largest


def test_accelerate_and_torchrun_end_with_the_same_bits(small: Callable[..., Any], two_ranks: Any):
    run = small()
    run.finish("accelerate")
    assert run.digests() == two_ranks.digests()
    assert run.ledger() == two_ranks.ledger()


@pytest.mark.slow
def test_one_process_ends_with_the_weights_of_two(small: Callable[..., Any]):
    alone, together = small("alone", precision="fp64"), small("together", precision="fp64")
    alone.finish("python")
    together.finish("torchrun")
    assert alone.ids() == together.ids()
    assert 0 < difference(alone.last, together.last) < 1e-12


@pytest.mark.slow
def test_three_launchers_train_the_demo_to_the_same_weights(small: Callable[..., Any]):
    """Its first steps, in fp64: with equally many ranks byte for byte, on one rank within rounding."""
    text = (LAUNCH / "configs/demo.toml").read_text().partition("[[evaluation")[0]
    text = text.replace("{", "{{").replace("}", "}}").replace("steps = 1100", "steps = 8")
    assert "steps = 8" in text
    runs = {
        name: small(name, text=f'precision = "fp64"\n{text}', steps=8) for name in ("python", "torchrun", "accelerate")
    }
    for launcher, run in runs.items():
        run.finish(launcher, "--evaluation.report", "False")
    assert runs["torchrun"].digests() == runs["accelerate"].digests()
    assert runs["torchrun"].ledger() == runs["accelerate"].ledger()
    assert runs["python"].ids() == runs["torchrun"].ids()
    # Adam divides what is nearly nothing by itself in its first steps: rounding is seen 100 times larger than below.
    assert 0 < difference(runs["python"].last, runs["torchrun"].last) < 1e-9


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_ranks(small: Callable[..., Any]):
    """2 -> 1 -> 2: the same samples at the same steps, and weights that differ by rounding."""
    unbroken, changing = small("unbroken", precision="fp64"), small("changing", precision="fp64")
    unbroken.finish("torchrun")
    for launcher, saved in (("torchrun", 5), ("python", 10)):
        changing.start(launcher, *(["--resume"] if changing.started else []))
        checkpoint = changing.folder / "checkpoints" / f"step-{saved:08d}"
        changing.until(checkpoint.is_dir)  # on the disk, where the next number of ranks goes on from
        changing.kill_tree()
    changing.finish("torchrun", "--resume")
    assert changing.ids() == unbroken.ids()
    assert difference(changing.last, unbroken.last) < 1e-12
    said = " ".join(changing.said().split())
    assert "resuming on 1 processes a run saved on 2" in said
    assert "resuming on 2 processes a run saved on 1" in said


@pytest.mark.slow
def test_the_elastic_script_starts_anew_what_was_killed(small: Callable[..., Any], two_ranks: Any):
    run = small()
    process = run.run([str(LAUNCH / "torchrun/elastic.sh"), *run.words], PROCESSES="2", RESTARTS="3")
    run.until(lambda: run.steps_done() >= 7)
    run.trainers()[1].kill()
    assert process.wait(600) == 0, run.said()
    assert run.digests() == two_ranks.digests()
    assert run.ledger() == two_ranks.ledger()


@pytest.mark.slow
def test_the_script_for_one_machine_trains(small: Callable[..., Any], two_ranks: Any):
    run = small()
    assert run.run([str(LAUNCH / "torchrun/local.sh"), *run.words], PROCESSES="2").wait() == 0, run.said()
    assert run.digests() == two_ranks.digests()
