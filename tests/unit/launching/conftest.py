"""What several tests of the launcher need."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def on_two_ranks() -> Callable[..., str]:
    """Run a module of `mmclip_launch` with its words on two processes, which must succeed; what they say is returned."""

    def run(module: str, *words: str, cwd: Path | None = None) -> str:
        command = [*TORCHRUN, "-m", f"mmclip_launch.{module}", *words]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    return run
