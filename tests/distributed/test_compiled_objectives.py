"""torch.compile takes every objective in one graph: a break would cost a wait for the device in each step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_objective_breaks_the_graph():
    worker = Path(__file__).with_name("compiled_worker.py")
    done = subprocess.run([sys.executable, str(worker)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 10
    assert {name: reasons for name, reasons in found.items() if reasons} == {}
