"""Kills in the midst of a save, of trainer and writer together or of one of them: what was acknowledged is there."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.checkpoint.contents import Trained, TrainingState, contents
from mmclip.training.checkpoint.folders import newest_checkpoint, step_of
from mmclip.training.checkpoint.lease import TEMPORARY, claim
from mmclip.training.checkpoint.loading import load_checkpoint
from mmclip.training.checkpoint.saver import Saver
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.progress import Progress


@pytest.fixture(scope="module")
def trained() -> Trained:
    module = TrainingModule(create(ModelConfig(arch="nano-vit-32"), False), ClipConfig().build())
    trained = Trained(module, build_optimizer(OptimizerConfig(), module))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trained.optimizer.step()
    return trained


@torch.no_grad()
def fill(trained: Trained, value: float) -> None:
    """Every weight and every moment of a step says which step it is."""
    for parameter in trained.module.parameters():
        parameter.fill_(value)
        for moment in ("exp_avg", "exp_avg_sq"):
            trained.optimizer.state[parameter][moment].fill_(value)


def values(trained: Trained) -> set[float]:
    moments = [
        trained.optimizer.state[p][name] for p in trained.module.parameters() for name in ("exp_avg", "exp_avg_sq")
    ]
    return {float(value) for tensor in (*trained.module.parameters(), *moments) for value in tensor.detach().unique()}


def save_for_ever(run: Path, trained: Trained, acknowledged: int, first: int) -> None:
    """In a child: save step after step, and say of each that it is durable."""
    saver = Saver(claim(run), CheckpointConfig(keep=2), print)
    step = first
    while True:
        fill(trained, step)
        saver.save(step, contents(trained, TrainingState(Progress(step, 8 * step), "f", 1)))
        fill(trained, -1.0)
        saver.wait()
        os.write(acknowledged, step.to_bytes(4, "little"))
        step += 1


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def acknowledgements(descriptor: int) -> Iterator[int]:
    while content := os.read(descriptor, 4):
        yield int.from_bytes(content, "little")


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_the_newest_checkpoint_loads_after_each_kill(kills: int, tmp_path: Path, trained: Trained):
    chance = random.Random(0)
    newest = 0
    in_midst = 0
    for number in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            save_for_ever(tmp_path, trained, writing, newest + 1)
        os.close(writing)
        answers = acknowledgements(reading)
        newest = max(newest, *(next(answers) for _ in range(1 + number % 2)))
        (writer,) = children_of(child)
        while not list((tmp_path / "checkpoints").glob(f"{TEMPORARY}*")):
            pass
        time.sleep(chance.random() * 0.05)  # where in the save the kill falls, not how long anything takes
        in_midst += bool(list((tmp_path / "checkpoints").glob(f"{TEMPORARY}*")))
        for victim in chance.sample([child, writer], 2):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        os.waitpid(child, 0)
        newest = max([newest, *answers])
        os.close(reading)
        folder = newest_checkpoint(tmp_path, lambda reason: None)
        assert folder is not None
        assert step_of(folder) >= newest, "an acknowledged save is lost"
        state = load_checkpoint(folder, trained)
        assert values(trained) == {float(state.progress.step)} == {float(step_of(folder))}
        newest = step_of(folder)
    assert in_midst >= kills / 2, "most kills fell into a save"
    claim(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(f"{TEMPORARY}*")), "the next trainer takes away the halves"
