"""What goes wrong inside a loader process reaches the person as if it had gone wrong in the training itself."""

import os
import signal
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


def first_batch(function: Any) -> object:
    config = DataConfig(source=SyntheticConfig(samples=16, image_size=16), workers=1)
    tokenize = lambda captions: torch.ones(len(captions), 4, dtype=torch.int64)  # noqa: E731
    loader = TrainLoader(config, ImageSpec(size=(16, 16)), tokenize, Layout(4), seed=0, maps=(function,))
    return next(loader.batches(DataPosition(0)))


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
