"""`MirrorConfig`: where a run's checkpoints are copied to."""

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.stores.writing import writable


@config
class MirrorConfig:
    """A copy of every checkpoint, with the run's own files, at a URL; `--resume` goes on from there where the disk is lost."""

    url: str | None = None
    """A folder of its own on a store, such as s3://bucket/runs/NAME."""
    keep: int = 2
    """Newest copies that stay there; an older one goes only when the newer ones are sealed."""

    def __post_init__(self) -> None:
        if self.url is not None:
            writable(self.url, "mirror.url")
        if self.keep < 1:
            raise UserError(f"mirror.keep={self.keep}: expected at least 1")
