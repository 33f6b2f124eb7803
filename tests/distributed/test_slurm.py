"""A job of Slurm that is told to stop saves, goes back into the queue and ends with the unbroken run's weights.

Slurm's three commands are played by the scripts in `slurm_shims/`: they set its variables, start the tasks, hand signals on and
record what is requeued.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("launchers")]

ROOT = Path(__file__).parents[2]
SHIMS = Path(__file__).with_name("slurm_shims")
SBATCH = ["sbatch", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]


def submit(run: Any, script: str, *words: str, options: tuple[str, ...] = ()) -> Any:
    shim = run.place / "slurm"
    shim.mkdir(exist_ok=True)
    path = f"{SHIMS}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(SHIMS / "sbatch"), *SBATCH[1:], *options, str(ROOT / "launch/slurm" / script), *words]
    return run.run(command, PATH=path, SHIM=str(shim), MMCLIP_SLURM=str(ROOT / "launch/slurm"))


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_is_told_to_stop_goes_on_where_it_was(sent: int, small: Callable[..., Any], two_ranks: Any):
    run = small()
    job = submit(run, "train.sbatch", *run.words)
    run.until(lambda: run.steps_done() >= 7)
    first = int((run.place / "slurm/batch.pid").read_text())
    os.kill(first, sent)
    run.until(lambda: (run.place / "slurm/requeued-0").exists())
    stopped_at = run.steps_done()
    assert job.wait() == 0, (run.place / "slurm/job.log").read_text()
    assert (run.place / "slurm/requeued-0").read_text() == "4711"
    assert 7 <= stopped_at < 24, "it saved where it was told, not at its end"
    assert run.digests() == two_ranks.digests()
    assert run.ledger() == two_ranks.ledger()


def test_a_mistake_ends_the_job_with_its_own_code_and_is_not_tried_again(small: Callable[..., Any]):
    run = small()
    job = submit(run, "train.sbatch", *run.words, "--global_batch_size", "5", "--peer_timeout_seconds", "5")
    assert job.wait() in (2, 3)
    assert "global_batch_size=5 is not divisible by 2 ranks" in (run.place / "slurm/job.log").read_text()
    assert not list((run.place / "slurm").glob("requeue*"))


def test_the_tasks_of_an_array_evaluate_a_checkpoint_each(small: Callable[..., Any], two_ranks: Any):
    run = small()
    checkpoints = sorted((two_ranks.folder / "checkpoints").iterdir())
    (run.place / "list.txt").write_text("".join(f"{folder}\n" for folder in checkpoints))
    words = ["list.txt", "--dataset", "embedded:emoji/unseen-concept-noto.tar", "--task", "zero_shot_retrieval"]
    words += ["--output", "results", "--no-report"]
    job = submit(run, "eval_array.sbatch", *words, options=(f"--array=1-{len(checkpoints)}%1", "--nodes=1"))
    assert job.wait() == 0, (run.place / "slurm/job.log").read_text()
    assert len(list((run.place / "results").rglob("*.json"))) == len(checkpoints)
