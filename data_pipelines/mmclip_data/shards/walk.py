"""Indexes a tar that already stands on disk, and tells every way in which it may be damaged apart."""

import tarfile
from pathlib import Path
from typing import BinaryIO

import xxhash

from mmclip.errors import UserError
from mmclip_data.shards.build import IndexBuilder, split_name
from mmclip_data.shards.index import ShardIndex

CHUNK_BYTES = 1 << 20
FILE_MEMBERS = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
NOT_TARS = {
    b"\x1f\x8b": "gzip data; members can be reached in plain tars only: `gunzip` it first",
    b"\x28\xb5\x2f\xfd": "zstd data; members can be reached in plain tars only: `zstd -d` it first",
    b"BZh": "bzip2 data; members can be reached in plain tars only: `bunzip2` it first",
    b"\xfd7zXZ": "xz data; members can be reached in plain tars only: `unxz` it first",
    b"PK\x03\x04": "a zip archive; pack the files as a tar",
    b"<": "text like an HTML or XML page, often a server's error page; fetch the shard again",
    b"{": "JSON text, often a server's error; fetch the shard again",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
}


def build_index(tar: Path) -> ShardIndex:
    """Walk the headers of `tar`, read every payload once, and index it.

    The standard library's reader ends in silence at a damaged header, so the walk must end at zero blocks that reach
    to the end of the file.

    Raises:
        UserError: not a plain tar, cut, damaged, a link or sparse member, a key with one extension twice,
            or no sample in it.
    """
    with _open(tar) as handle:
        size = handle.seek(0, 2)
        builder = IndexBuilder(tar)
        end = _walk(tar, handle, size, builder)
        _check_end(tar, handle, end, size)
    return builder.build(size)


def _open(tar: Path) -> BinaryIO:
    try:
        return tar.open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"shard {tar}: {error.strerror}") from error


def _walk(tar: Path, handle: BinaryIO, size: int, builder: IndexBuilder) -> int:
    """Add every member to `builder` and return the byte at which the reader found no further header."""
    offset = 0
    handle.seek(0)
    try:
        # Bytes of a name that are not UTF-8 become \\xNN, so that every key can be printed and written to JSON.
        archive = tarfile.TarFile(fileobj=handle, mode="r", errors="backslashreplace")
        while (member := archive.next()) is not None:
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # the reader would otherwise keep every header of the shard in memory
            offset = member.offset
            _add_member(tar, handle, size, member, builder)
        return archive.offset
    except UserError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:
        problem = _not_a_tar(handle) if offset == 0 else None
        problem = (
            problem
            or f"cannot be read as a tar after the member at byte {offset} of {size} ({error}); fetch or write it again"
        )
        raise UserError(f"shard {tar}: {problem}") from error


def _not_a_tar(handle: BinaryIO) -> str | None:
    """What the file is instead, told by its first bytes, or None."""
    handle.seek(0)
    start = handle.read(1024).lstrip()
    if not start:
        return "empty file, expected a tar; fetch or write it again"
    return next((f"not a tar but {what}" for magic, what in NOT_TARS.items() if start.startswith(magic)), None)


def _add_member(tar: Path, handle: BinaryIO, size: int, member: tarfile.TarInfo, builder: IndexBuilder) -> None:
    if member.isdir():
        return
    if member.type not in FILE_MEMBERS or member.issparse():
        raise UserError(
            f"shard {tar}: member {member.name!r} at byte {member.offset} "
            f"is a link, a device or a sparse file (type {member.type!r}), expected a regular file; "
            "pack it again with the files' contents (tar --dereference --hard-dereference)"
        )
    if member.size < 0 or member.offset_data + member.size > size:
        raise UserError(
            f"shard {tar}: member {member.name!r} at byte {member.offset} claims {member.size} bytes, "
            f"the file ends at {size}: it was cut short; fetch or write it again"
        )
    name = split_name(member.name)
    if name is None:
        builder.ignore(member.name)
        return
    builder.add(*name, member.offset_data, member.size, _checksum(handle, member.offset_data, member.size))


def _checksum(handle: BinaryIO, offset: int, size: int) -> int:
    handle.seek(offset)
    if size <= CHUNK_BYTES:
        return xxhash.xxh3_64_intdigest(handle.read(size))
    digest = xxhash.xxh3_64()
    for start in range(0, size, CHUNK_BYTES):
        digest.update(handle.read(min(CHUNK_BYTES, size - start)))
    return digest.intdigest()


def _check_end(tar: Path, handle: BinaryIO, end: int, size: int) -> None:
    if end >= size:
        raise UserError(
            f"shard {tar}: ends at byte {size} without end-of-archive blocks: "
            "it was cut between members; fetch or write it again"
        )
    handle.seek(end)
    while chunk := handle.read(CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise UserError(
                f"shard {tar}: unreadable header at byte {end}, with data behind it up to {size}: "
                "the shard is damaged there; "
                "fetch or write it again (joined tars must be joined with `tar --concatenate`, not `cat`)"
            )
