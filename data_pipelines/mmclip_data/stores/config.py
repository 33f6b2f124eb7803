"""How shards on a store are read. Where credentials come from is the store's own affair: see docs/stores.md."""

from pathlib import Path
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.cache_home import cache_home

Mode = Literal["auto", "download", "range"]


@config
class CacheConfig:
    """How shards at URLs are read; paths on this machine are read where they lie."""

    folder: str | None = None
    """For whole shards, shared by all processes and runs of a machine; unset: `mmclip/shards` in the user's cache folder."""
    max_bytes: int = 100 << 30
    """Most that the shards in it may take; those read longest ago go first. Indexes are not counted and stay."""
    mode: Mode = "auto"
    """`download` whole shards first, read `range`s only, or `auto`: ranges at once, while shards that are needed come."""
    look_ahead_bytes: int = 256 << 20
    """Memory of each process for samples that are fetched by range before they are needed; 0 fetches none ahead."""
    parallel: int = 16
    """Requests of each process at the same time."""
    downloads: int = 4
    """Whole shards that the processes of a machine, all together, fetch in the background at the same time."""
    idle_seconds: float = 20.0
    """An answer of which no byte comes for so long is given up, and asked for again."""
    retry_seconds: float = 120.0
    """How long a store that fails is tried again, since the last byte that came, before the run stops."""
    anonymous: bool = False
    """Read public buckets (s3, gs, hf) without credentials."""

    def __post_init__(self) -> None:
        lowest = {"max_bytes": 0, "look_ahead_bytes": 0, "parallel": 1, "downloads": 0, "retry_seconds": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UserError(f"data.source.cache.{name}={getattr(self, name)}: expected {least} or more")
        if self.idle_seconds <= 0:
            raise UserError(f"data.source.cache.idle_seconds={self.idle_seconds}: expected more than 0")

    @property
    def path(self) -> Path:
        """The folder, as named or by default."""
        return Path(self.folder) if self.folder else cache_home() / "shards"
