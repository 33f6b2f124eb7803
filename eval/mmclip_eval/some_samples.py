"""`SomeSamples`: a set without those of its samples that were left out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import xxhash

from mmclip.errors import UserError
from mmclip_eval.samples import Samples

T = TypeVar("T")


class SomeSamples:
    """The samples of another set at `kept`, in their order there."""

    bad: Mapping[int, str] = {}

    def __init__(self, samples: Samples, kept: Sequence[int]) -> None:
        self.all = samples
        self.kept = list(kept)
        self.name = samples.name
        self.several_pictures = samples.several_pictures

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def fingerprint(self) -> str:
        """That of all samples, and of which were left out."""
        rest = sorted(set(range(len(self.all))) - set(self.kept))
        return xxhash.xxh3_128_hexdigest(f"{self.all.fingerprint} without {rest}".encode())

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        return Counter(extension for i in range(len(self)) for extension in self.extensions(i))

    def sample_id(self, index: int) -> str:
        return self.all.sample_id(self.kept[index])

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, in their order."""
        return self.all.extensions(self.kept[index])

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture."""
        return self.all.image_bytes(self.kept[index])

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has."""
        return self.all.members(self.kept[index], extensions)

    def close(self) -> None:
        """Close what the whole set has open."""
        self.all.close()


def read_each(samples: Samples, read: Callable[[int], T], bad: dict[int, str] | None) -> Iterator[tuple[int, T]]:
    """What `read` finds in each sample that can be read, with the sample's index.

    Where `bad` is given, a sample in which something is missing or unreadable goes there with the reason, and is passed
    over.

    Raises:
        UserError: a sample cannot be read, and `bad` is None.
    """
    for index in range(len(samples)):
        try:
            found = read(index)
        except UserError as error:
            if bad is None:
                raise
            bad[index] = str(error)
            continue
        yield index, found
