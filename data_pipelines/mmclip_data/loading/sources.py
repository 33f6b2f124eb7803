"""Where samples come from: anything with shards of known sizes and random access to their rows."""

from collections.abc import Collection, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, words
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.index import OnDamage
from mmclip_data.shards.names import IMAGE_EXTENSIONS, distinct_names
from mmclip_data.shards.read import ShardReader
from mmclip_data.stores import CacheConfig, Place, RemoteReader, expand_places, open_indexes


@runtime_checkable
class Source(Protocol):
    """A length, sizes of shards, and webdataset's sample dictionaries by shard and row."""

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that change when any sample does."""
        ...

    def sample_id(self, shard: int, row: int) -> str:
        """`source/shard/key`."""
        ...

    def read(self, shard: int, row: int) -> dict[str, Any]:
        """`__key__`, `__url__` and the members by extension.

        Raises:
            BadSampleError: the bytes are not those that were indexed, or a needed member is missing.
            OSError: the store failed; the sample itself may be sound.
        """
        ...


@runtime_checkable
class LeavesPictures(Protocol):
    """A source that can do without its pictures, where their features are known already; others go on reading them."""

    def leave_pictures(self) -> None:
        """Read no picture from now on, only the other members."""
        ...


@config
class IndexedTarsConfig:
    """Plain WebDataset tars, each with the index that `mmclip shards index` writes."""

    type: Literal["tars"] = "tars"
    shards: str | tuple[str, ...]
    """Files, folders, patterns (`data/{00000..00127}.tar`) or URLs, joined by `::` or listed; `embedded:`: the demo's data."""
    name: str = "train"
    """First part of every sample's identity."""
    index_folder: str | None = None
    """Where the indexes stand when the shards' own folder is read-only."""
    on_damage: OnDamage = "refuse"
    """A shard that was cut or changed after it was indexed: an error, or a `quarantine` of what is no longer intact."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """How shards at URLs are read."""

    def build(self, extensions: Collection[str]) -> "IndexedTars":
        """Open every index; `extensions` are the members to read."""
        folder = Path(self.index_folder) if self.index_folder else None
        return IndexedTars(self.name, expand_places(self.shards, self.cache), extensions, folder, self.on_damage)


class IndexedTars:
    """Random access to the samples of indexed tars.

    Raises:
        UserError: a shard or its index is missing or stale, or a shard has no sample with a picture.
    """

    def __init__(
        self,
        name: str,
        tars: Sequence[Place],
        extensions: Collection[str],
        index_folder: Path | None = None,
        on_damage: OnDamage = "refuse",
    ) -> None:
        self.name = name
        self.tars = tars
        self.extensions = frozenset(extensions) | frozenset(IMAGE_EXTENSIONS)
        indexes = open_indexes(tars, index_folder, on_damage)
        for tar, index in zip(tars, indexes, strict=True):
            if not set(index.extensions) & set(IMAGE_EXTENSIONS):
                raise UserError(
                    f"shard {tar} holds no picture: expected members {', '.join(IMAGE_EXTENSIONS)}, "
                    f"got {', '.join(index.extensions)}; {_mend(index.extensions)}"
                )
        self._readers = [
            ShardReader(tar, index) if isinstance(tar, Path) else RemoteReader(tar, index, self.extensions)
            for tar, index in zip(tars, indexes, strict=True)
        ]
        self._urls = [str(tar) for tar in tars]
        names = [tar.name for tar in tars]
        if len(set(names)) < len(names):  # `a/0.tar` and `b/0.tar`
            names = distinct_names(self._urls)
        self._prefixes = [f"{name}/{shard}/" for shard in names]
        self._sizes = np.array([index.num_samples for index in indexes], dtype=np.int64)
        self._fingerprint = xxhash.xxh3_128_hexdigest("".join(index.fingerprint for index in indexes).encode())

    def restrict(self, extensions: Collection[str]) -> None:
        """Read pictures and these members only, from now on."""
        self._read_only(frozenset(extensions) | frozenset(IMAGE_EXTENSIONS))

    def leave_pictures(self) -> None:
        self._read_only(self.extensions - frozenset(IMAGE_EXTENSIONS))

    def _read_only(self, extensions: frozenset[str]) -> None:
        self.extensions = extensions
        for reader in self.remote_readers:
            if reader is not None:
                reader.extensions = extensions

    @property
    def indexes(self) -> list[ShardIndex]:
        """The index of each tar."""
        return [reader.index for reader in self._readers]

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        return self._sizes

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def remote_readers(self) -> list[RemoteReader | None]:
        """The reader of each shard that is on a store, for those who know what will be read next."""
        return [reader if isinstance(reader, RemoteReader) else None for reader in self._readers]

    def sample_id(self, shard: int, row: int) -> str:
        return self._prefixes[shard] + self._readers[shard].index.key(row)

    def read(self, shard: int, row: int) -> dict[str, Any]:
        reader = self._readers[shard]
        sample: dict[str, Any] = {"__url__": self._urls[shard]}
        sample["__key__"] = key = reader.read_into(sample, row, self.extensions)
        sample["__id__"] = self._prefixes[shard] + key
        return sample


@config
class SyntheticConfig:
    """Random pixels with random captions, made on the fly: for measuring throughput without a disk or a decoder."""

    type: Literal["synthetic"] = "synthetic"
    samples: int = 100_000
    """Samples of an epoch."""
    image_size: int = 256
    """Height and width of the pictures before augmentation, in pixels."""
    caption_words: int = 12
    """Words of a caption."""

    def build(self, extensions: Collection[str]) -> "Synthetic":
        """The source; it has no members to choose among."""
        return Synthetic(self)


class Synthetic:
    """A source whose samples are functions of their row: one shard, nothing on disk."""

    def __init__(self, config: SyntheticConfig) -> None:
        if config.samples < 1:
            raise UserError(f"data.source.samples={config.samples}: expected at least 1")
        self.config = config
        self._has_pictures = True

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        return np.array([self.config.samples], dtype=np.int64)

    def leave_pictures(self) -> None:
        self._has_pictures = False

    @property
    def fingerprint(self) -> str:
        return xxhash.xxh3_128_hexdigest(repr(self.config).encode())

    def sample_id(self, shard: int, row: int) -> str:
        return f"synthetic/{shard}/{row:09d}"

    def read(self, shard: int, row: int) -> dict[str, Any]:
        size, count = self.config.image_size, self.config.caption_words
        draws = words(0, Stream.SYNTHETIC, row, -(-size * size * 3 // 8) + count)
        caption = " ".join(f"word{draw % 1000}" for draw in draws[:count].tolist())
        sample = {"__key__": f"{row:09d}", "__url__": "synthetic:", "txt": caption.encode()}
        if self._has_pictures:
            sample["pixels"] = draws[count:].view(np.uint8)[: size * size * 3].reshape(size, size, 3)
        return sample


def picture_of(sample: dict[str, Any]) -> bytes:
    """The encoded picture of a sample.

    Raises:
        BadSampleError: it has none.
    """
    for extension in IMAGE_EXTENSIONS:
        if extension in sample:
            return sample[extension]
    members = ", ".join(name for name in sample if not name.startswith("__")) or "nothing that this run reads"
    raise BadSampleError(f"no picture: expected a member {' or '.join(IMAGE_EXTENSIONS)}, got {members}")


def _mend(extensions: Sequence[str]) -> str:
    """How a shard without pictures comes to have them."""
    dotted = next((name for name in extensions if "." in name and name.rpartition(".")[2] in IMAGE_EXTENSIONS), None)
    if dotted:
        return (
            f"WebDataset ends a key at the first dot of the file name, so that the rest of NAME.{dotted} is its extension: "
            "rename the members so that file names hold no other dot"
        )
    return "convert the pictures, such as by `mmclip shards make folder`"
