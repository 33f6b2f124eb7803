from typing import Annotated

from pydantic import Field

from mmclip.objectives.base import ModelShape, MomentumNeed, Objective, ObjectiveContext, ObjectiveNeeds, ViewNeed
from mmclip.objectives.classify import ClassifyConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.objectives.distill import DistillConfig
from mmclip.objectives.siglip import SiglipConfig

ObjectiveConfig = Annotated[ClipConfig | SiglipConfig | DistillConfig | ClassifyConfig, Field(discriminator="type")]
"""The union is the registry: a new objective is one file and one name here."""

__all__ = [
    "ClassifyConfig",
    "ClipConfig",
    "DistillConfig",
    "ModelShape",
    "MomentumNeed",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveContext",
    "ObjectiveNeeds",
    "SiglipConfig",
    "ViewNeed",
]
