"""`Run`: the parts of a run, put together."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmclip.training.gathered import Gathered
from mmclip.training.resolution import Part
from mmclip.training.step import TrainStep
from mmclip_data.loading.build import Loader
from mmclip_data.loading.loader import DataConfig


@dataclass(frozen=True)
class Run:
    """The parts of a run, built and checked, before anything is written or trained."""

    step: TrainStep
    loader: Loader
    data: DataConfig
    """With the views that its objectives need."""
    total_steps: int
    parts: Sequence[Part]
    """Its steps by picture size."""
    gathered: Gathered | None = None
    """What is evaluated where the weights are sharded."""
