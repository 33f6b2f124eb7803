"""Collects the rows of an index, one member at a time, from a tar that is being walked or written."""

from array import array
from collections import Counter
from collections.abc import Set
from pathlib import Path

import numpy as np

from mmclip.errors import UserError
from mmclip_data.shards.columns import COLUMNS, Salvage, ShardIndex
from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, may_merge, merged_names
from mmclip_data.shards.pictures import FORMAT_OF_EXTENSION, FORMATS, look_at

MAX_EXTENSIONS = 256
MAX_IGNORED_NAMES = 20


class IndexBuilder:
    """Members come in tar order; members of one sample need not stand beside each other."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self.samples: dict[str, int] = {}
        self.extensions: dict[str, int] = {}
        self.owner, self.extension = array("I"), array("I")
        self._offset, self._size, self._checksum = array("Q"), array("Q"), array("Q")
        self._pictures = {name: array("I") for name in ("row", "width", "height", "format")}
        self._ignored: list[str] = []
        self._num_ignored = 0

    def add(self, key: str, extension: str, offset: int, size: int, checksum: int, head: bytes) -> None:
        """Add one member, of which `head` is the whole payload or its beginning; the first of a key fixes its place."""
        if extension in FORMAT_OF_EXTENSION:
            found = look_at(head)
            facts = (len(self.owner), found.width, found.height, FORMATS.index(found.format))
            for column, fact in zip(self._pictures.values(), facts, strict=True):
                column.append(fact)
        self.owner.append(self.samples.setdefault(key, len(self.samples)))
        self.extension.append(self.extensions.setdefault(extension, len(self.extensions)))
        self._offset.append(offset)
        self._size.append(size)
        self._checksum.append(checksum)

    def ignore(self, name: str) -> None:
        """Count a member that belongs to no sample; the index keeps the count and the first names."""
        self._num_ignored += 1
        if len(self._ignored) < MAX_IGNORED_NAMES:
            self._ignored.append(name)

    def build(self, tar_size: int, without: Set[int] = frozenset(), salvage: Salvage | None = None) -> ShardIndex:
        """The finished index, less the samples of `without`.

        Raises:
            UserError: the shard holds no sample, one key has the same extension twice, or names met under one key.
        """
        if not self.owner or len(without) == len(self.samples):
            lost = f"; {salvage.num_quarantined} samples are not whole" if salvage else ""
            raise UserError(
                f"shard {self.shard}: no sample in it{lost}; {self._num_ignored} members "
                f"without key and extension{self._names()}; expected members such as 0001.jpg and 0001.txt: leave this "
                "shard out (a folder or a pattern takes every .tar that is there: move or remove it), or write it again"
            )
        self._refuse_merged()
        extensions = sorted(self.extensions)
        rank = np.empty(len(extensions), np.uint16)
        rank[[self.extensions[extension] for extension in extensions]] = np.arange(len(extensions))
        owner, extension = np.array(self.owner, np.uint32), rank[np.array(self.extension)]
        order = np.lexsort((extension, owner))
        if without:
            order = order[~np.isin(owner[order], sorted(without))]
        keys = [key for key, sample in self.samples.items() if sample not in without]
        sample = np.searchsorted(np.unique(owner[order]), owner[order]).astype(np.uint32)
        columns = {
            "member_sample": sample,
            "member_extension": extension[order],
            "member_offset": np.array(self._offset, np.uint64)[order],
            "member_size": np.array(self._size, np.uint64)[order],
            "member_xxh3": np.array(self._checksum, np.uint64)[order],
        }
        columns |= _key_columns(sample, [key.encode() for key in keys])
        self._refuse_duplicates(columns, extensions, keys)
        columns |= self._facts(columns, extensions, order)
        mislabelled = self._mislabelled()
        assert columns.keys() == COLUMNS.keys()
        return ShardIndex(
            tar_size=tar_size,
            num_samples=len(keys),
            num_members=len(sample),
            extensions=tuple(extensions),
            columns=columns,
            ignored_members=self._num_ignored,
            ignored_names=tuple(self._ignored),
            mislabelled=mislabelled,
            salvage=salvage,
        )

    def _facts(self, columns: dict[str, np.ndarray], extensions: list[str], order: np.ndarray) -> dict[str, np.ndarray]:
        """Size and format of each sample's picture and length of its caption: of the member that training would read."""
        rows = len(self.owner)
        of_row = {name: np.zeros(rows, np.uint32) for name in ("width", "height", "format")}
        for name, values in of_row.items():
            values[np.array(self._pictures["row"], np.int64)] = np.array(self._pictures[name], np.uint32)
        count = len(columns["key_offset"]) - 1
        width, height = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
        kind, caption = np.zeros(count, np.uint8), np.zeros(count, np.uint32)
        for extension in reversed(IMAGE_EXTENSIONS):  # the first of them has the last word
            found, place = _rows_of(columns, extensions, extension)
            width[found], height[found] = of_row["width"][order[place]], of_row["height"][order[place]]
            kind[found] = of_row["format"][order[place]]
        for extension in reversed(CAPTION_EXTENSIONS):
            found, place = _rows_of(columns, extensions, extension)
            caption[found] = np.minimum(columns["member_size"][place], 0xFFFFFFFF)
        return {"sample_width": width, "sample_height": height, "sample_format": kind, "sample_caption_bytes": caption}

    def _mislabelled(self) -> dict[str, int]:
        names = list(self.extensions)
        counts = Counter(
            (names[self.extension[row]], FORMATS[kind])
            for row, kind in zip(self._pictures["row"], self._pictures["format"], strict=True)
            if FORMAT_OF_EXTENSION[names[self.extension[row]]] != FORMATS[kind]
        )
        return {f"{extension} holds {kind}": count for (extension, kind), count in sorted(counts.items())}

    def _refuse_merged(self) -> None:
        """Names with dots inside: WebDataset cuts at the first, so `im.v1.jpg` and `im.v2.jpg` become one sample."""
        if may_merge(self.extensions):
            names = list(self.extensions)
            samples: dict[str, list[str]] = {key: [] for key in self.samples}
            keys = list(self.samples)
            for owner, extension in zip(self.owner, self.extension, strict=True):
                samples[keys[owner]].append(names[extension])
            merged = merged_names(samples)
            if merged:
                key, middles = next(iter(merged.items()))
                total = sum(map(len, merged.values()))
                raise UserError(
                    f"shard {self.shard}: key {key!r} would join {len(middles)} pictures that differ only behind the "
                    f"first dot of their names ({', '.join(map(repr, middles[:3]))}{', ...' if middles[3:] else ''}): "
                    f"{total} names met under {len(merged)} keys in this shard; WebDataset ends a key at the first "
                    "dot of the file name: rename the files so that it is the only one"
                )
        if len(self.extensions) > MAX_EXTENSIONS:
            raise UserError(
                f"shard {self.shard}: {len(self.extensions)} different extensions, more than {MAX_EXTENSIONS}, "
                f"the last is {list(self.extensions)[-1]!r}; "
                "WebDataset cuts a name at its first dot: rename the members so that file names hold no other dot"
            )

    def _refuse_duplicates(self, columns: dict[str, np.ndarray], names: list[str], keys: list[str]) -> None:
        sample, extension, offset = (columns[name] for name in ("member_sample", "member_extension", "member_offset"))
        twice = np.flatnonzero((sample[1:] == sample[:-1]) & (extension[1:] == extension[:-1]))
        if len(twice):
            row = int(twice[0])
            raise UserError(
                f"shard {self.shard}: key {keys[int(sample[row])]!r} has two members {names[int(extension[row])]!r}, "
                f"at bytes {offset[row]} and {offset[row + 1]} ({len(twice)} such pairs in the shard); "
                "a key may have each extension once: rename or remove one"
            )

    def _names(self) -> str:
        return f": {', '.join(self._ignored[:3])}" if self._ignored else ""


def _key_columns(sample: np.ndarray, keys: list[bytes]) -> dict[str, np.ndarray]:
    return {
        "sample_first_member": np.searchsorted(sample, np.arange(len(keys) + 1)).astype(np.uint64),
        "key_offset": np.cumsum([0, *map(len, keys)]).astype(np.uint64),
        "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
    }


def _rows_of(columns: dict[str, np.ndarray], extensions: list[str], extension: str) -> tuple[np.ndarray, np.ndarray]:
    """The samples that have a member of `extension`, and the rows of those members."""
    if extension not in extensions:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows = np.flatnonzero(columns["member_extension"] == extensions.index(extension))
    return columns["member_sample"][rows], rows
