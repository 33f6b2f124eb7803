"""Collects the rows of an index, one member at a time, from a tar that is being walked or written."""

from pathlib import Path

import numpy as np

from mmclip.errors import UserError
from mmclip_data.shards.index import ShardIndex

MAX_EXTENSIONS = 256
MAX_IGNORED_NAMES = 20


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-cased extension of a tar member by WebDataset's rule, or None for a name that belongs to no sample.

    The key is the path up to the first dot of the file name, so `a.b/im.v1.JPG` gives `("a.b/im", "v1.jpg")`.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _is_metadata(name):
        return None
    return folder + slash + stem, extension.lower()


def _is_metadata(name: str) -> bool:
    """WebDataset skips a top-level folder or file whose name stands between double underscores."""
    top = name.partition("/")[0]
    return len(top) >= 4 and top.startswith("__") and top.endswith("__")


class IndexBuilder:
    """Members come in tar order; members of one sample need not stand beside each other."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self._samples: dict[str, int] = {}
        self._extensions: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._ignored: list[str] = []
        self._num_ignored = 0

    def add(self, key: str, extension: str, offset: int, size: int, checksum: int) -> None:
        """Add one member; the first member of a key fixes the sample's place in the shard."""
        sample = self._samples.setdefault(key, len(self._samples))
        number = self._extensions.setdefault(extension, len(self._extensions))
        if number >= MAX_EXTENSIONS:
            raise UserError(
                f"shard {self.shard}: more than {MAX_EXTENSIONS} different extensions, "
                f""
                f"the last is {extension!r} of key {key!r}; "
                "WebDataset cuts a name at its first dot: rename the members so that file names hold no other dot"
            )
        self._rows.append((sample, number, offset, size, checksum))

    def ignore(self, name: str) -> None:
        """Count a member that belongs to no sample; the index keeps the count and the first names."""
        self._num_ignored += 1
        if len(self._ignored) < MAX_IGNORED_NAMES:
            self._ignored.append(name)

    def build(self, tar_size: int) -> ShardIndex:
        """The finished index.

        Raises:
            UserError: the shard holds no sample, or one key has the same extension twice.
        """
        if not self._rows:
            raise UserError(
                f"shard {self.shard}: no sample in it; {self._num_ignored} members "
                f"without key and extension{self._names()}"
            )
        extensions = sorted(self._extensions)
        rank = np.empty(len(extensions), np.uint16)
        rank[[self._extensions[extension] for extension in extensions]] = np.arange(len(extensions))
        rows = np.array(self._rows, np.uint64)
        sample, extension = rows[:, 0].astype(np.uint32), rank[rows[:, 1].astype(np.int64)]
        order = np.lexsort((extension, sample))
        sample, extension, rows = sample[order], extension[order], rows[order]
        self._refuse_duplicates(sample, extension, extensions, rows[:, 2])
        keys = [key.encode() for key in self._samples]
        columns = {
            "member_sample": sample,
            "member_extension": extension,
            "member_offset": rows[:, 2].copy(),
            "member_size": rows[:, 3].copy(),
            "member_xxh3": rows[:, 4].copy(),
            "sample_first_member": np.searchsorted(sample, np.arange(len(keys) + 1)).astype(np.uint64),
            "key_offset": np.cumsum([0, *map(len, keys)]).astype(np.uint64),
            "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
        }
        return ShardIndex(tar_size, tuple(extensions), columns, self._num_ignored, tuple(self._ignored))

    def _refuse_duplicates(
        self, sample: np.ndarray, extension: np.ndarray, names: list[str], offset: np.ndarray
    ) -> None:
        twice = np.flatnonzero((sample[1:] == sample[:-1]) & (extension[1:] == extension[:-1]))
        if len(twice):
            row = int(twice[0])
            key = list(self._samples)[int(sample[row])]
            raise UserError(
                f"shard {self.shard}: key {key!r} has two members {names[int(extension[row])]!r}, "
                f"at bytes {offset[row]} and {offset[row + 1]} ({len(twice)} such pairs in the shard); "
                "a key may have each extension once: rename or remove one"
            )

    def _names(self) -> str:
        return f": {', '.join(self._ignored[:3])}" if self._ignored else ""
