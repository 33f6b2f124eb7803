"""What `swav` and `dino` share: prototypes and multi-crop (SwAV, Caron et al. 2020, sections 3.1 and 3.3)."""

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives.base import ModelShape, Style, ViewNeed
from mmclip.objectives.parts.checks import at_least, positive, shares
from mmclip.objectives.parts.norm import Norm

GLOBAL, LOCAL = "global", "local"


def crops_of(outputs: TowerOutput) -> list[ViewOutput]:
    """The large crops, then the small ones."""
    return [*outputs.views[GLOBAL], *outputs.views.get(LOCAL, ())]


@config
class MultiCropConfig:
    """Which crops an objective compares by means of prototypes; the areas are DINO's."""

    type: str = ""  # first in the run's file; each objective has its own name here
    local_views: int = 8
    """Small crops of each picture beside the two large ones; 0 for none."""
    local_size: int | None = None
    """Their side in pixels; without it 3/7 of the model's, which is 96 of 224, in whole patches."""
    global_style: Style = "strong"
    """How the large crops are drawn; `crop` leaves colours alone, for crops that meet a caption too (`image_view`)."""
    prototypes: int = 3000
    hidden: int = 2048
    """Width of the hidden layers of the head."""
    norm: Norm = "none"
    """Between the layers of the head."""
    temperature: float = 0.1
    """Of the views that tell the assignments."""
    frozen_share: float = 0.01
    """Share of the run, at its start, in which the prototypes do not learn."""

    def __post_init__(self) -> None:
        at_least(0, local_views=self.local_views)
        at_least(1, local_size=self.local_size, hidden=self.hidden)
        at_least(2, prototypes=self.prototypes)
        positive(temperature=self.temperature)
        shares(frozen_share=self.frozen_share)

    @property
    def crops(self) -> tuple[ViewNeed, ...]:
        """What the loader must draw."""
        large = ViewNeed(GLOBAL, copies=2, style=self.global_style, crop_area=(0.4, 1.0))
        if not self.local_views:
            return (large,)
        small = ViewNeed(LOCAL, copies=self.local_views, style="local", size=self.local_size, crop_area=(0.05, 0.4))
        return large, small

    def check_shape(self, shape: ModelShape) -> None:
        """Refuse small crops that are no whole patches of the model.

        Raises:
            UserError: the side does not fit.
        """
        size, patch = self.local_size, shape.patch_size
        if self.local_views and size is not None and patch is not None and any(size % side for side in patch):
            nearest = max(patch[0], round(size / patch[0]) * patch[0])
            raise UserError(
                f"objective.local_size={size} is not divisible by the model's patches of {patch[0]} x {patch[1]} pixels; "
                f"nearest: {nearest}"
            )
