from typing import Annotated

from pydantic import Field

from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.byol import ByolConfig
from mmclip.objectives.classify import ClassifyConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.objectives.dino import DinoConfig
from mmclip.objectives.distill import DistillConfig
from mmclip.objectives.hard_negatives import HardNegativesConfig
from mmclip.objectives.masked import MaskedConfig
from mmclip.objectives.moco import MocoConfig
from mmclip.objectives.queue import QueueConfig
from mmclip.objectives.siglip import SiglipConfig
from mmclip.objectives.simclr import SimclrConfig
from mmclip.objectives.simsiam import SimsiamConfig
from mmclip.objectives.swav import SwavConfig
from mmclip.objectives.triplet import TripletConfig
from mmclip.objectives.vicreg import VicregConfig

ObjectiveConfig = Annotated[
    ClipConfig
    | SiglipConfig
    | DistillConfig
    | ClassifyConfig
    | QueueConfig
    | TripletConfig
    | HardNegativesConfig
    | SimclrConfig
    | MocoConfig
    | ByolConfig
    | SimsiamConfig
    | VicregConfig
    | SwavConfig
    | DinoConfig
    | MaskedConfig,
    Field(discriminator="type"),
]
"""The union is the registry: a new objective is one file and one name here."""

__all__ = [
    "ByolConfig",
    "ClassifyConfig",
    "ClipConfig",
    "DinoConfig",
    "DistillConfig",
    "HardNegativesConfig",
    "MaskedConfig",
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
    "SimsiamConfig",
    "SwavConfig",
    "TripletConfig",
    "VicregConfig",
    "ViewNeed",
]
