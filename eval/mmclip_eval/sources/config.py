"""`SourceConfig`: where the samples of an evaluation set lie, and how many there must be."""

from dataclasses import field
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.stores import CacheConfig

OnBad = Literal["error", "skip"]


def whole_shards() -> CacheConfig:
    """An evaluation reads all of a shard, in order: one request for it costs less than one a sample."""
    return CacheConfig(mode="download")


@config
class SourceConfig:
    """What opening a set needs; which form it has is told from `path`."""

    name: str
    """Stands in results and file names; unique within a suite."""
    path: str
    """Shards or a folder of them, also at a URL; pictures in folders by class; a table; `hf:NAME`; see docs/evaluation.md."""
    split: str = "test"
    """Which split, where the set has several; plain shards and tables have none."""
    subset: str | None = None
    """Which configuration of a `datasets` data set that has several."""
    revision: str | None = None
    """Branch, tag or commit of a `datasets` data set on the Hub."""
    objective: str | None = None
    """Which of the classifications of a set like FairFace, whose names and templates read `objective:text`."""
    image_column: str | None = None
    """The column of pictures or of their paths; by default of a usual name."""
    image_folder: str | None = None
    """Where relative paths of pictures begin; by default beside the file that names them."""
    pictures: tuple[str, ...] = ()
    """Members that hold the pictures of a sample that has several, such as `0.png`, `1.png`; empty: its one picture."""
    num_samples: int | None = None
    """How many samples there must be; another number is an error."""
    on_bad: OnBad = "error"
    """A sample that cannot be read ends the evaluation, or is left out of every task, named and counted."""
    max_bad: int = 10
    """With `on_bad = "skip"`: so many samples may be left out; one more ends the evaluation."""
    cache: CacheConfig = field(default_factory=whole_shards)
    """How shards at URLs are read."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError(
                f"name={self.name!r} of the set at {self.path}: expected a name, which results are filed by"
            )
        for name, least in (("num_samples", 1), ("max_bad", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{self.name}.{name}={value}: expected {least} or more")
