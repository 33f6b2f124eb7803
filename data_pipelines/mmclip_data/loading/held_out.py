"""`HeldOutConfig`: a share of a source's samples that a run does not learn from, and is chosen on."""

import xxhash

from mmclip.config import config
from mmclip.errors import UserError


@config
class HeldOutConfig:
    """Which samples are held out: a function of each one's name, so that training and evaluation agree without a list."""

    share: float = 0.0
    """Of the samples (or groups of them), such as 0.1; drawn by their names, so that the number is not exact. 0: none."""
    by: str | None = None
    """A place in the sample, such as `json:stamp`: samples that agree there stay together; by default each is for itself."""
    seed: int = 0
    """Another one holds out others."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UserError(f"held_out.share={self.share}: expected a share from 0 to below 1, such as 0.1")

    def holds_out(self, name: str) -> bool:
        """Whether the sample or group of this name is held out."""
        return xxhash.xxh3_64_intdigest(f"{self.seed}:{name}".encode()) < self.share * 2.0**64
