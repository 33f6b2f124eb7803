"""What goes wrong inside a loader process reaches the person as if it had gone wrong in the training itself."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mmclip.batch import DataPosition
from mmclip.errors import MachineError, UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import SyntheticConfig


def refuse(sample: dict[str, Any]) -> dict[str, Any]:
    raise UserError("maps: expected a caption of one word")


def lose_the_disk(sample: dict[str, Any]) -> dict[str, Any]:
    raise OSError(5, "Input/output error", "shard.tar")


def die(sample: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return sample


def batches(*maps: Any) -> Any:
    config = DataConfig(source=SyntheticConfig(samples=16, image_size=16), workers=1, restarts=0)
    tokenize = lambda captions: torch.ones(len(captions), 4, dtype=torch.int64)  # noqa: E731
    loader = TrainLoader(config, ImageSpec(size=(16, 16)), tokenize, Layout(4), seed=0, maps=maps)
    return loader.batches(DataPosition(0))


def first_batch(function: Any) -> object:
    return next(batches(function))


def test_a_mistake_is_its_message_without_the_process_traceback():
    with pytest.raises(UserError) as caught:
        first_batch(refuse)
    assert str(caught.value) == "maps: expected a caption of one word"


def test_a_failing_store_keeps_its_number_and_its_file():
    with pytest.raises(OSError, match="Input/output error") as caught:
        first_batch(lose_the_disk)
    assert (caught.value.errno, caught.value.filename) == (5, "shard.tar")


def test_a_killed_process_ends_the_run_and_says_what_to_do():
    with pytest.raises(MachineError, match=r"a loader process failed: .*exited unexpectedly.*lower data.workers"):
        first_batch(die)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_signals_of_others_pass_a_loader_process_by_and_the_training_process_ends_it():
    before = set(multiprocessing.active_children())
    loaded = batches()
    next(loaded)
    (process,) = set(multiprocessing.active_children()) - before
    for name in ("USR1", "TERM"):
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)
    for _ in range(20):  # more than was loaded ahead
        next(loaded)
    assert process.is_alive()
    process.terminate()  # from here, as torch does at the end of a loader
    process.join(30)
    assert process.exitcode == 0
    loaded.close()


ORPHANED = """
import sys, time
sys.path[:0] = {path!r}
import importlib.util
spec = importlib.util.spec_from_file_location("tests_of_loaders", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
loaded = module.batches()
next(loaded)
print(module.multiprocessing.active_children()[0].pid, flush=True)
time.sleep(600)
"""


def test_a_loader_process_ends_with_its_training_process():
    """Killed alone, by its id: a kill of the group would take both and prove nothing."""
    script = ORPHANED.format(path=sys.path, file=__file__)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        assert is_alive(worker)
        trainer.kill()
        trainer.wait()
        deadline = time.monotonic() + 5
        while is_alive(worker):
            assert time.monotonic() < deadline
            time.sleep(0.01)
