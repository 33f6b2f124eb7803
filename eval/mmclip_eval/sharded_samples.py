"""The samples of an evaluation set: indexed tars laid end to end, read in order or at random."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path

import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.sources import IMAGE_EXTENSIONS
from mmclip_data.shards.index import ShardIndex, index_path, open_index
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index


class ShardedSamples:
    """Random access over several shards; a sample's identity is `name/shard/key`.

    A shard without an index beside it is indexed in memory, so that read-only folders work. Each sample has a picture under
    one of the usual extensions, unless `one_picture` is false, as where several stand under names of their own.

    Raises:
        UserError: a shard is damaged, or a sample has no picture.
    """

    def __init__(self, name: str, shards: Sequence[Path], one_picture: bool = True) -> None:
        self.name = name
        self.shards = list(shards)
        self._indexes = [_index_of(shard) for shard in self.shards]
        self._ends = list(accumulate(index.num_samples for index in self._indexes))
        self.several_pictures = 0
        """Samples with more than one picture; as in training, the first of `IMAGE_EXTENSIONS` is taken."""
        self._image_extension = [self._find_image(index) for index in range(len(self))] if one_picture else []
        self._reader: ShardReader | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the samples and their order, not the folder that they lie in."""
        return xxhash.xxh3_128_hexdigest(" ".join(index.fingerprint for index in self._indexes).encode())

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        counts: Counter[str] = Counter()
        for index in self._indexes:
            counts.update(index.extension_counts())
        return counts

    def sample_id(self, index: int) -> str:
        shard, local = self._locate(index)
        return f"{self.name}/{self.shards[shard].name}/{self._indexes[shard].key(local)}"

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, in the order of the tar."""
        shard, local = self._locate(index)
        return tuple(self._indexes[shard].members(local))

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            BadSampleError: its bytes differ from those that were indexed.
        """
        extension = self._image_extension[index]
        return self._read(index, (extension,))[extension]

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has.

        Raises:
            UserError: a member's bytes differ from those that were indexed.
        """
        try:
            return self._read(index, extensions)
        except BadSampleError as error:
            raise UserError(f"sample {self.sample_id(index)} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the shard that was read last; a later read opens it again."""
        if self._reader is not None:
            self._reader.close()

    def _read(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        shard, local = self._locate(index)
        if self._reader is None or self._reader.tar != self.shards[shard]:
            self.close()  # one descriptor at a time: sets may have thousands of shards
            self._reader = ShardReader(self.shards[shard], self._indexes[shard])
        return self._reader.read(local, extensions)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.name}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _find_image(self, index: int) -> str:
        members = self.extensions(index)
        found = [extension for extension in IMAGE_EXTENSIONS if extension in members]
        self.several_pictures += len(found) > 1
        if found:
            return found[0]
        raise UserError(
            f"sample {self.sample_id(index)} has no picture: members {', '.join(members)}; expected one of "
            f"{', '.join(IMAGE_EXTENSIONS)}"
        )


def _index_of(shard: Path) -> ShardIndex:
    return open_index(shard) if index_path(shard).is_file() else build_index(shard)
