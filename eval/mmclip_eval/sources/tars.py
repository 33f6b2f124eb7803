"""Shards: tars of this machine or of a store, indexed and laid end to end, read in order or at random."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.index import SUFFIX, index_path, load_index, open_index, write_index
from mmclip_data.shards.names import IMAGE_EXTENSIONS, distinct_names
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index
from mmclip_data.stores import NotFoundError, Place, RemoteReader, RemoteShard, open_indexes


class ShardedSamples:
    """Random access over several shards; a sample's identity is `name/shard/key`.

    A shard without an index beside it is indexed here, so that read-only folders work. Each sample has a picture under one of
    the usual extensions (else it is `bad`), unless `one_picture` is false, as where several stand under names of their own.

    Raises:
        UserError: a shard is damaged.
        StoreError: a store does not answer.
    """

    def __init__(self, name: str, shards: Sequence[Place], one_picture: bool = True) -> None:
        self.name = name
        self.shards = list(shards)
        self._indexes = [_index_of(shard) for shard in self.shards]
        self._ends = list(accumulate(index.num_samples for index in self._indexes))
        names = [shard.name for shard in self.shards]
        if len(set(names)) < len(names):  # `a/0.tar` and `b/0.tar`
            names = distinct_names([str(shard) for shard in self.shards])
        self._prefixes = [f"{name}/{shard}/" for shard in names]
        self.several_pictures = 0
        """Samples with more than one picture; as in training, the first of `IMAGE_EXTENSIONS` is taken."""
        self.bad: Mapping[int, str] = {}
        """Samples without a picture."""
        self._image_extension: list[str] = []
        if one_picture:
            self._find_images()
        self._reader: ShardReader | RemoteReader | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the samples and their order, not the folder that they lie in."""
        return xxhash.xxh3_128_hexdigest(" ".join(index.fingerprint for index in self._indexes).encode())

    @property
    def samples_of_shard(self) -> dict[Place, int]:
        """How many samples each shard holds."""
        return {shard: index.num_samples for shard, index in zip(self.shards, self._indexes, strict=True)}

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        counts: Counter[str] = Counter()
        for index in self._indexes:
            counts.update(index.extension_counts())
        return counts

    def sample_id(self, index: int) -> str:
        shard, local = self._locate(index)
        return self._prefixes[shard] + self._indexes[shard].key(local)

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, in the order of the tar."""
        shard, local = self._locate(index)
        return tuple(self._indexes[shard].members(local))

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            BadSampleError: there is none, or its bytes differ from those that were indexed.
        """
        if index in self.bad:
            raise BadSampleError(self.bad[index])
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
        place = self.shards[shard]
        if self._reader is None or self._reader.tar != place:
            self.close()  # one descriptor at a time: sets may have thousands of shards
            found = self._indexes[shard]
            self._reader = ShardReader(place, found) if isinstance(place, Path) else RemoteReader(place, found)
        return self._reader.read(local, extensions)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.name}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _find_images(self) -> None:
        bad: dict[int, str] = {}
        for index in range(len(self)):
            members = self.extensions(index)
            found = [extension for extension in IMAGE_EXTENSIONS if extension in members]
            self.several_pictures += len(found) > 1
            self._image_extension.append(found[0] if found else "")
            if not found:
                expected = ", ".join(IMAGE_EXTENSIONS)
                bad[index] = f"has no picture: members {', '.join(members)}; expected one of {expected}"
        self.bad = bad


def _index_of(shard: Place) -> ShardIndex:
    if isinstance(shard, Path):
        return open_index(shard) if index_path(shard).is_file() else build_index(shard)
    try:
        shard.store.facts(shard.url.sibling(SUFFIX))
    except NotFoundError:
        return _made_here(shard)
    return open_indexes([shard], None)[0]


def _made_here(shard: RemoteShard) -> ShardIndex:
    """The index of a shard that has none on its store, kept in the cache of this machine."""
    cache, name = shard.stores.cache, f"{shard.key}-made"
    for again in (True, False):
        if not cache.small_path(name).is_file():
            shard.open_whole().close()  # before the lock of the index is taken, which may be that of the shard too
        path = cache.small_file(name, partial(_build, shard))
        try:
            return load_index(path)
        except UserError:
            path.unlink(missing_ok=True)  # cut by a full disk, or of an older version
            if not again:
                raise
    raise AssertionError("the second time ends it")


def _build(shard: RemoteShard) -> bytes:
    local = shard.stores.cache.local_path(shard.key, shard.size)
    try:
        index = build_index(local)
    except UserError as error:
        raise UserError(str(error).replace(str(local), str(shard))) from None
    with TemporaryDirectory(prefix="mmclip-index-") as folder:
        path = Path(folder) / shard.name
        write_index(index, path)
        return path.read_bytes()
