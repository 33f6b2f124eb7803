from typing import Annotated

from pydantic import Field

from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.classify import ClassifyConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.objectives.distill import DistillConfig
from mmclip.objectives.hard_negatives import HardNegativesConfig
from mmclip.objectives.moco import MocoConfig
from mmclip.objectives.queue import QueueConfig
from mmclip.objectives.siglip import SiglipConfig
from mmclip.objectives.simclr import SimclrConfig
from mmclip.objectives.triplet import TripletConfig

ObjectiveConfig = Annotated[
    ClipConfig
    | SiglipConfig
    | DistillConfig
    | ClassifyConfig
    | QueueConfig
    | TripletConfig
    | HardNegativesConfig
    | SimclrConfig
    | MocoConfig,
    Field(discriminator="type"),
]
"""The union is the registry: a new objective is one file and one name here."""

__all__ = [
    "ClassifyConfig",
    "ClipConfig",
    "DistillConfig",
    "HardNegativesConfig",
    "MocoConfig",
    "ModelShape",
    "MomentumNeed",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveContext",
    "ObjectiveNeeds",
    "QueueConfig",
    "SiglipConfig",
    "SimclrConfig",
    "TripletConfig",
    "ViewNeed",
]
