"""mmclip: contrastive image-text training that is exact, resumable and readable.

`model = mmclip.load("runs/demo")`, then `model.embed_images`, `model.embed_texts`, `model.zero_shot`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mmclip.torchvision_ops import install

if TYPE_CHECKING:
    from mmclip.towers.two_tower import TwoTower

install()  # open_clip, timm and accelerate's command import torchvision, which may not fit the torch beside it

__version__ = "0.1.0"


def load(source: str | Path, device: str = "cpu") -> "TwoTower":
    """A trained model in evaluation mode; see `mmclip.release.load` for what `source` may be."""
    from mmclip.release import load as load_release  # open_clip and timm take seconds to import

    return load_release(source, device)
