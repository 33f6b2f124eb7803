"""Which sections there are, in their order, and the seconds that each may take on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from device import ceilings, large_batch, losses, shards, steps, text
from device.notes import Notes
from device.scale import Scale

Run = Callable[[Notes, Scale, torch.device], None]


@dataclass(frozen=True)
class Section:
    """One part of the benchmark, run in a process of its own: its end is certain, and its memory is free for the next."""

    name: str
    run: Run
    seconds: int


SECTIONS = (
    Section("ceilings", ceilings.run, 30),
    Section("steps", steps.run_eager, 100),
    Section("text_groups", text.run, 30),
    Section("loss", losses.run, 50),
    Section("end_to_end", shards.run, 75),
    Section("compiled_b32", partial(steps.run_compiled, 0), 90),
    Section("large_batch", large_batch.run, 50),
    Section("compiled_b16", partial(steps.run_compiled, 1), 75),
    Section("compiled_l14", partial(steps.run_compiled, 2), 85),
)
"""What is worth most comes first: compiling may eat all of its time."""
