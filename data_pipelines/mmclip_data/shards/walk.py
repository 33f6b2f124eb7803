"""Indexes a tar that already stands on disk, and tells every way in which it may be damaged apart."""

from io import BufferedIOBase, BufferedReader
from pathlib import Path

import xxhash

from mmclip.errors import UserError
from mmclip_data.shards.build import IndexBuilder
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.headers import FOLDER, REGULAR, Entry, HeaderReader, TarDamage
from mmclip_data.shards.names import split_name
from mmclip_data.shards.salvage import Salvager

CHUNK_BYTES = 1 << 20
NOT_TARS = {
    b"\x1f\x8b": "gzip data; members can be reached in plain tars only: `gunzip` it first",
    b"\x28\xb5\x2f\xfd": "zstd data; members can be reached in plain tars only: `zstd -d` it first",
    b"BZh": "bzip2 data; members can be reached in plain tars only: `bunzip2` it first",
    b"\xfd7zXZ": "xz data; members can be reached in plain tars only: `unxz` it first",
    b"PK\x03\x04": "a zip archive; pack the files as a tar",
    b"<": "text like an HTML or XML page, often a server's error page; fetch the shard again",
    b"{": "JSON text, often a server's error; fetch the shard again",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    **dict.fromkeys(
        (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8"),
        "a picture; give the folder it is in to `mmclip shards make folder`",
    ),
    b"PAR1": "a Parquet file; give it to `mmclip shards make table`, or train on it by a source of type datasets",
}


def build_index(tar: Path, salvage: bool = False) -> ShardIndex:
    """Walk the headers of `tar`, read every payload once, and index it.

    With `salvage`, a damage is stepped over: every sample that is whole is kept, and `ShardIndex.salvage` tells what is
    lost. Without, the walk must end at zero blocks that reach to the end of the file.

    Raises:
        UserError: not a plain tar, cut, damaged, a link or sparse member, a key with one extension twice,
            or no sample in it.
    """
    with _open(tar) as handle:
        return _Walk(tar, handle, salvage).index()


def _open(tar: Path) -> BufferedIOBase:
    try:
        return BufferedReader(tar.open("rb", buffering=0), CHUNK_BYTES)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"shard {tar}: {error.strerror}") from error


def _not_a_tar(handle: BufferedIOBase) -> str | None:
    """What the file is instead, told by its first bytes, or None."""
    handle.seek(0)
    start = handle.read(1024).lstrip()
    if not start:
        return "empty file, expected a tar; fetch or write it again"
    return next((f"not a tar but {what}" for magic, what in NOT_TARS.items() if start.startswith(magic)), None)


class _Walk:
    def __init__(self, tar: Path, handle: BufferedIOBase, salvage: bool) -> None:
        self.tar = tar
        self.handle = handle
        self.size = handle.seek(0, 2)
        self.headers = HeaderReader(handle, self.size)
        self.builder = IndexBuilder(tar)
        self.salvager = Salvager(handle, self.size, self.builder) if salvage else None

    def index(self) -> ShardIndex:
        self._walk()
        if self.salvager is None:
            return self.builder.build(self.size)
        without, salvage = self.salvager.finish()
        damaged = salvage.num_ranges or salvage.num_quarantined
        return self.builder.build(self.size, without, salvage if damaged else None)

    def _walk(self) -> None:
        offset, last = 0, None
        while True:
            try:
                entry = self._entry(offset)
                if entry is None:
                    return self._check_end(offset)
                self._add(entry)
                last, offset = entry, entry.end
            except TarDamage as damage:
                offset, last = self._after(damage, last), None
                if offset >= self.size:
                    return None

    def _entry(self, offset: int) -> Entry | None:
        if offset < self.size:
            return self.headers.entry(offset)
        problem = f"ends at byte {self.size} without end-of-archive blocks: it was cut between members"
        raise TarDamage(offset, problem)

    def _after(self, damage: TarDamage, last: Entry | None) -> int:
        """The byte to read on from, where damages are stepped over.

        Raises:
            UserError: they are not, or this is no tar at all.
        """
        resume = self.salvager.resume(damage, last) if self.salvager else self.size
        not_a_tar = _not_a_tar(self.handle) if damage.start == 0 and resume == self.size else None
        if not_a_tar:
            raise UserError(f"shard {self.tar}: {not_a_tar}") from damage
        if self.salvager:
            return resume
        what = f"cannot be read as a tar: {damage}" if damage.start == 0 else str(damage)
        raise UserError(
            f"shard {self.tar}: {what}; fetch or write it again, or keep what is whole of it with "
            f"`mmclip shards index --salvage {self.tar}`"
        ) from damage

    def _add(self, entry: Entry) -> None:
        if entry.kind == FOLDER:
            return
        where = f"member {entry.name!r} at byte {entry.start}"
        if entry.kind not in REGULAR:
            raise TarDamage(
                entry.start,
                f"{where} is a link, a device or a sparse file (type {entry.kind!r}), expected a regular file; pack it "
                "again with the files' contents (tar --dereference --hard-dereference)",
                entry,
            )
        if entry.data + entry.size > self.size:
            problem = f"{where} claims {entry.size} bytes, the file ends at {self.size}: it was cut short"
            raise TarDamage(entry.start, problem, entry)
        if self.salvager and self.salvager.doubts(entry):
            raise TarDamage(entry.start, f"{where} stands behind lost bytes that may have held its long name", entry)
        name = split_name(entry.name)
        if name is None:
            self.builder.ignore(entry.name)
        else:
            self.builder.add(*name, entry.data, entry.size, *self._payload(entry))

    def _payload(self, entry: Entry) -> tuple[int, bytes]:
        """Checksum and first bytes of a payload; a large one is read piece by piece."""
        self.handle.seek(entry.data)
        if entry.size <= CHUNK_BYTES:
            payload = self.handle.read(entry.size)
            return xxhash.xxh3_64_intdigest(payload), payload
        digest, head = xxhash.xxh3_64(), b""
        for start in range(0, entry.size, CHUNK_BYTES):
            chunk = self.handle.read(min(CHUNK_BYTES, entry.size - start))
            digest.update(chunk)
            head = head or chunk
        return digest.intdigest(), head

    def _check_end(self, end: int) -> None:
        """Zeros must reach to the end of the file: the standard library's reader stops at the first block of them."""
        self.handle.seek(end)
        while chunk := self.handle.read(CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise TarDamage(
                    end,
                    f"unreadable header at byte {end} (zeros), with data behind it up to {self.size}: the shard is "
                    "damaged there, or tars were joined by `cat` instead of `tar --concatenate`",
                )
