from typing import Annotated

from pydantic import Field

from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.byol import ByolConfig
from mmclip.objectives.classify import ClassifyConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.objectives.dino import DinoConfig
from mmclip.objectives.distill import DistillConfig
from mmclip.objectives.masked import MaskedConfig
from mmclip.objectives.siglip import SiglipConfig
from mmclip.objectives.simsiam import SimsiamConfig
from mmclip.objectives.swav import SwavConfig
from mmclip.objectives.vicreg import VicregConfig

ObjectiveConfig = Annotated[
    ClipConfig
    | SiglipConfig
    | DistillConfig
    | ClassifyConfig
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
    "MaskedConfig",
    "ModelShape",
    "MomentumNeed",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveContext",
    "ObjectiveNeeds",
    "SiglipConfig",
    "SimsiamConfig",
    "SwavConfig",
    "VicregConfig",
    "ViewNeed",
]
