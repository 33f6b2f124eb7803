"""Writes samples into shards; the same samples always give the same bytes, on any machine and day."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import xxhash

from mmclip.errors import UserError
from mmclip_data.shards.atomic import discard, named, publish, temporary_name
from mmclip_data.shards.build import IndexBuilder
from mmclip_data.shards.index import index_path, write_index
from mmclip_data.shards.names import split_name

NAME_BYTES = 100
SIZE_FIELD = slice(124, 135)
CHECKSUM_FIELD = slice(148, 154)
BLANK = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
BLANK_SUM = int(BLANK[CHECKSUM_FIELD], 8) - sum(BLANK[SIZE_FIELD])


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a payload: USTAR, mode 0644, no owner, time 0.

    Short names are filled into a blank header: `tarfile` takes 20 microseconds a member, as long as a small image's
    encoding.

    Raises:
        ValueError: the name or the size does not fit.
    """
    raw, digits = name.encode(), b"%011o" % size
    if len(raw) > NAME_BYTES or len(digits) > 11:
        header = tarfile.TarInfo(name)
        header.size = size
        return header.tobuf(tarfile.USTAR_FORMAT)
    checksum = b"%06o" % (BLANK_SUM + sum(raw) + sum(digits))
    middle = BLANK[SIZE_FIELD.stop : CHECKSUM_FIELD.start]
    return raw.ljust(NAME_BYTES, b"\0") + BLANK[NAME_BYTES:124] + digits + middle + checksum + BLANK[154:]


class ShardWriter:
    """Fills shards one after another, `samples_per_shard` samples each, with an index beside every one.

    `pattern` is a format string for the shard's number, as in `"train-{:06d}.tar"`; with `samples_per_shard=None` there
    is one shard, and the pattern may be its name. A shard appears under its name when it is complete; when the `with`
    block raises, the shard in progress vanishes and those already complete stay. Names that would not be read back as
    they were given are refused.
    """

    def __init__(self, folder: Path, pattern: str = "{:06d}.tar", samples_per_shard: int | None = 10_000) -> None:
        if samples_per_shard is not None and samples_per_shard < 1:
            raise UserError(f"samples_per_shard={samples_per_shard}: expected at least 1")
        fixed = pattern.format(0) == pattern.format(1)
        if (fixed and samples_per_shard is not None) or not pattern.endswith(".tar"):
            raise UserError(
                f"pattern={pattern!r}: expected a place for the shard's number and the ending .tar, "
                "as in 'train-{:06d}.tar'"
            )
        self.folder = folder
        self.pattern = pattern
        self.samples_per_shard = samples_per_shard
        self.paths: list[Path] = []
        self.num_samples = 0
        self._shard: _OpenShard | None = None

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; its members stand in the alphabetical order of their extensions."""
        if self._shard is None:
            self._shard = _OpenShard(self.folder / self.pattern.format(len(self.paths)))
        self._shard.add(key, members)
        self.num_samples += 1
        if self._shard.num_samples == self.samples_per_shard:
            self._finish()

    def _finish(self) -> None:
        if self._shard is not None:
            try:
                self._shard.finish()
            except OSError:
                self._shard.discard()
                raise
            self.paths.append(self._shard.path)
            self._shard = None

    def close(self) -> None:
        """Complete the last shard."""
        self._finish()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._shard is not None:
            self._shard.discard()


class _OpenShard:
    """A tar under a temporary name, and the index that grows with it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.temporary = temporary_name(path)
        self.handle: BinaryIO = self.temporary.open("wb")
        self.builder = IndexBuilder(path)
        self.keys: set[str] = set()
        self.offset = 0

    @property
    def num_samples(self) -> int:
        return len(self.keys)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        self._check(key, members)
        headers = {
            extension: self._header(f"{key}.{extension}", len(payload)) for extension, payload in members.items()
        }
        self.keys.add(key)
        for extension, payload in sorted(members.items()):
            header = headers[extension]
            checksum = xxhash.xxh3_64_intdigest(payload)
            self.builder.add(key, extension, self.offset + len(header), len(payload), checksum, payload)
            block = header + payload + bytes(-len(payload) % tarfile.BLOCKSIZE)
            with named(self.path):
                self.handle.write(block)
            self.offset += len(block)

    def _check(self, key: str, members: Mapping[str, bytes]) -> None:
        if key in self.keys:
            raise UserError(f"shard {self.path}: key {key!r} added twice; a key names one sample of a shard")
        if not members:
            raise UserError(f"shard {self.path}: key {key!r} has no members")
        for extension in members:
            if split_name(f"{key}.{extension}") != (key, extension):
                raise UserError(
                    f"shard {self.path}: key {key!r} with extension {extension!r} would not be read back as such; "
                    "a key's file name holds no dot and is not empty, an extension is lower case without a slash"
                )

    def _header(self, name: str, size: int) -> bytes:
        try:
            return member_header(name, size)
        except ValueError as error:
            raise UserError(
                f"shard {self.path}: member {name!r} of {size} bytes does not fit a USTAR header ({error}); "
                "use a shorter key"
            ) from error

    def finish(self) -> None:
        end = self.offset + 2 * tarfile.BLOCKSIZE
        end += -end % tarfile.RECORDSIZE
        with named(self.path):
            self.handle.write(bytes(end - self.offset))
        index = self.builder.build(end)
        # A kill between the two renames must not leave an old index beside a new tar.
        index_path(self.path).unlink(missing_ok=True)
        publish(self.handle, self.temporary, self.path)
        write_index(index, index_path(self.path))

    def discard(self) -> None:
        discard(self.handle, self.temporary)
