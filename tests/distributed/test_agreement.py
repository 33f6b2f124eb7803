"""What one rank wants, all ranks do, at the same step."""

import json
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from mmclip.training.agreement import Agreement, Decision

WORKER = Path(__file__).with_name("agreement_worker.py")
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
NO, STOP, SAVE, LATE = [0, False], [7, False], [0, True], [2, False]


def test_a_vote_of_one_rank_counts_on_both_at_the_next_edge_and_at_the_same_where_steps_are_slow(tmp_path: Path):
    done = subprocess.run([*TORCHRUN, str(WORKER), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["fast"] == [NO, NO, NO, NO, STOP, NO, SAVE, LATE]
    assert first["slow"] == [NO, NO, NO, STOP, NO, SAVE, LATE, NO]
    assert first["fast any"] == first["slow any"] == [False, True]


def test_one_process_waits_for_nobody():
    agreement = Agreement(1)
    assert not dist.is_initialized()
    assert agreement.at_edge(3, save=True) == Decision(3, save=True)
    assert agreement.at_edge(0, save=False) == Decision()
    assert agreement.finish() == Decision()
    assert (agreement.any(True), agreement.any(False)) == (True, False)


def test_ranks_that_are_started_anew_by_the_same_agent_meet_again(tmp_path: Path):
    """Under the c10d rendezvous both attempts have the same store, with the addresses of the dead in it."""
    worker = WORKER.with_name("attempt_worker.py")
    (tmp_path / "run.toml").write_text(
        'output = "none"\nglobal_batch_size = 4\ndevice = "cpu"\nlength = { steps = 1 }\n'
        'data = { source = { type = "synthetic" } }\n'
    )
    words = ["--max-restarts", "1", str(worker), str(tmp_path), str(tmp_path / "run.toml")]
    done = subprocess.run([*TORCHRUN, *words], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("?-?")} == {"1-0", "1-1"}
