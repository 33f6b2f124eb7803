"""What else a run's bits hang on: they are equal again on the same device, with the same versions, on as many processes."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

import torch

from mmclip_launch.doctor.processor import read_processor


def made_with(device: torch.device) -> dict[str, str]:
    """Versions and device of this process, as they stand in its checkpoints."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else read_processor().model
    return {
        "mmclip": version("mmclip"),
        "torch": str(torch.__version__),
        "device": f"{device.type} ({name}, {platform.machine()})",
    }


def told_of_others(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each that differs; what an older checkpoint does not tell is not compared."""
    return [
        f"resuming with {name} {now[name]} a run saved with {before[name]}: the same samples in the same order, weights equal "
        "within rounding"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]
