"""`Samples`: what every form of evaluation set presents itself as."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Samples(Protocol):
    """Samples in a fixed order, read at random; each has members by extension, as in a WebDataset tar."""

    name: str
    """Of the set; opens every identity."""
    several_pictures: int
    """Samples with more pictures than were asked for; the first is taken."""
    bad: Mapping[int, str]
    """Samples that are known to be of no use, such as those without a picture, each with the reason."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Names the samples and their order, not the place that they lie in."""
        ...

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        ...

    def sample_id(self, index: int) -> str: ...

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, in their order."""
        ...

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture of a sample that has one; raises `BadSampleError` where it cannot be read."""
        ...

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has; raises `UserError` where one cannot be read."""
        ...

    def close(self) -> None:
        """Release what is open; a later read opens it again."""
        ...
