"""Pictures with their captions and facts, from shards or from a folder of files, by row."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.caption_fields import SAMPLES_READ, fields_of_sample, fields_of_shards, spread
from mmclip_data.loading.captions import captions_of, members_of
from mmclip_data.pipelines.rewrite import Inputs
from mmclip_data.shards.expand import expand_shards
from mmclip_data.shards.index import index_path, open_index
from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, distinct_names
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index


class Words(NamedTuple):
    """What is said of a picture."""

    caption: str | None
    """The first; None where the set has no captions at all."""
    facts: Mapping[str, Any]
    """The sample's JSON."""


@runtime_checkable
class Pairs(Protocol):
    """A set to embed; every read names its row, and threads may read at once."""

    fields: tuple[str, ...]
    """Where captions stand; empty where there are none, or none are wanted."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes with what the set holds."""
        ...

    def name(self, row: int) -> str:
        """Of the sample, as its row of metadata has it."""
        ...

    def image_bytes(self, row: int) -> bytes:
        """The encoded picture; raises `BadSampleError` where there is none."""
        ...

    def words(self, row: int) -> Words:
        """Caption and facts; raises `BadSampleError` where they cannot be read, or the caption is missing."""
        ...


def open_pairs(data: Sequence[str], captions: Sequence[str] | None = None) -> Pairs:
    """Shards (files, folders of tars, patterns), or one folder of picture files with captions beside them.

    `captions` says where they stand, `()` that they are not wanted; None: wherever a run would look.

    Raises:
        UserError: there is nothing, or a shard is damaged.
    """
    folder = Path(data[0]) if len(data) == 1 else None
    if folder is not None and folder.is_dir() and not any(folder.glob("*.tar")):
        return FolderPairs(folder, captions)
    tars = expand_shards(data)
    readers = [ShardReader(tar, open_index(tar) if index_path(tar).is_file() else build_index(tar)) for tar in tars]
    return ShardPairs(Inputs(tuple(readers), tuple(distinct_names([*map(str, tars)]))), captions)


class ShardPairs:
    """The samples of shards, named `SHARD/KEY`."""

    def __init__(self, inputs: Inputs, captions: Sequence[str] | None) -> None:
        self.inputs = inputs
        members = {name for index in inputs.indexes for name in index.extension_counts()}
        usual = fields_of_shards(inputs.readers) if captions is None else ()
        self.fields = tuple(captions if captions is not None else usual if members & members_of(usual) else ())
        self._read = {"json", *members_of(self.fields)}

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def fingerprint(self) -> str:
        return self.inputs.fingerprint

    def name(self, row: int) -> str:
        return self.inputs.name(row)

    def image_bytes(self, row: int) -> bytes:
        shard, local = self.inputs.locate(row)
        reader = self.inputs.readers[shard]
        found = next((name for name in IMAGE_EXTENSIONS if name in reader.index.members(local)), None)
        if found is None:
            raise BadSampleError(f"no picture: its members are {', '.join(reader.index.members(local))}")
        return reader.read(local, (found,))[found]

    def words(self, row: int) -> Words:
        shard, local = self.inputs.locate(row)
        sample = self.inputs.readers[shard].read(local, self._read)
        return _words(sample, self.fields)


class FolderPairs:
    """The picture files of a folder and of those below it, by path; `a.txt` and `a.json` belong to `a.jpg`.

    Raises:
        UserError: there is no picture.
    """

    def __init__(self, folder: Path, captions: Sequence[str] | None) -> None:
        endings = {f".{name}" for name in IMAGE_EXTENSIONS}
        self.folder = folder
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
        if not self.files:
            raise UserError(f"data={folder}: neither tars nor pictures ({', '.join(sorted(endings))}) in it or below")
        self.fields = tuple(self._usual_fields() if captions is None else captions)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """Of paths, sizes and times: a folder may hold more than can be read twice."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_128()
        for path in self.files:
            facts = path.stat()
            digest.update(f"{path.relative_to(self.folder)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def name(self, row: int) -> str:
        return str(self.files[row])

    def image_bytes(self, row: int) -> bytes:
        return _bytes_of(self.files[row])

    def words(self, row: int) -> Words:
        return _words(self._beside(row), self.fields)

    def _beside(self, row: int) -> dict[str, bytes]:
        paths = {name: self.files[row].with_suffix(f".{name}") for name in (*CAPTION_EXTENSIONS, "json")}
        return {name: _bytes_of(path) for name, path in paths.items() if path.is_file()}

    def _usual_fields(self) -> Iterable[str]:
        """The places that most of some samples have a caption at, and those of the others behind."""
        found: Counter[str] = Counter()
        for row in spread(len(self.files), SAMPLES_READ):
            try:
                sample = self._beside(row)
                fields = fields_of_sample(sample)
                captions_of(dict(sample), fields)
                found.update(fields)
            except BadSampleError:  # named when it is embedded
                continue
        return [field for field, _ in found.most_common()]


def _words(sample: Mapping[str, bytes], fields: Sequence[str]) -> Words:
    try:
        facts = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f"json: {error}") from error
    if not isinstance(facts, dict):
        raise BadSampleError(f"json: expected an object, got {type(facts).__name__}")
    return Words(captions_of(dict(sample), fields)[0][0] if fields else None, facts)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"{path.name}: {error.strerror}") from error
