"""`hf-hub:ORG/NAME`: a repository in open_clip's layout or in that of transformers, told by its configuration file."""

from mmclip.release.hub import downloaded
from mmclip.release.sources.folder import load_path
from mmclip.towers.two_tower import TwoTower


def load_hub(name: str) -> TwoTower:
    """The model of a repository.

    Raises:
        UserError: it cannot be downloaded, or is of neither layout.
    """
    return load_path(downloaded(name), raw=False)
