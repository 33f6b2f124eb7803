"""What goes wrong on several processes is told once, by name, and the launcher ends without a hang."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_launch.run.peers import refuse_too_few_devices

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [str(BIN / "accelerate"), "launch", "--config_file", str(ROOT / "launch/accelerate/cpu2.yaml")]

ONE_RANK_FAILS = """
import os, sys
from mmclip_launch.cli import run_verb

def verb(words):
    import torch.distributed
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        raise RuntimeError("only here")
    torch.distributed.barrier()  # rank 0 waits for the one that has failed

sys.exit(run_verb(verb, sys.argv[1:]))
"""


def messages(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "mmclip: " in line]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_mistake_that_all_ranks_share_is_told_once(launcher: list[str], workshop: Path):
    command = [*launcher, "-m", "mmclip_launch.train", "run.toml", "--global_batch_size", "5"]
    done = subprocess.run(command, cwd=workshop, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    expected = "mmclip: global_batch_size=5 is not divisible by 2 ranks; nearest: 4, 6"
    assert messages(done.stderr) == [expected], done.stderr
    assert not (workshop / "new").exists()


@pytest.mark.slow
def test_a_fault_of_one_rank_names_it_and_ends_the_others(tmp_path: Path):
    (tmp_path / "verb.py").write_text(ONE_RANK_FAILS)
    done = subprocess.run(
        [*TORCHRUN, "verb.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode != 0
    (message,) = messages(done.stderr)
    assert message.startswith("mmclip: rank 1: internal error: RuntimeError: only here; this is a fault of mmclip")
    kept = Path(message.partition("traceback: ")[2])
    assert "RuntimeError: only here" in kept.read_text()
    kept.unlink()


def test_two_processes_do_not_share_a_gpu():
    refuse_too_few_devices(4, 4)
    refuse_too_few_devices(4, 0)
    with pytest.raises(UserError, match=r"4 processes on this machine, which has 2 GPU\(s\): .*--nproc_per_node 2"):
        refuse_too_few_devices(4, 2)
