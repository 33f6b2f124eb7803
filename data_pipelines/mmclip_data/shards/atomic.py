"""Files that either stand complete under their name or do not stand there at all, whenever the process is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut; the file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, on the same file system, that no shard pattern matches."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the system within name `path`: writing to a file that is open says no name of its own."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def publish(handle: BinaryIO, temporary: Path, path: Path) -> None:
    """Flush, sync and close `handle`, which wrote `temporary`, then give the file its final name `path`."""
    with named(path):
        handle.flush()
        os.fsync(handle.fileno())
        handle.close()
    os.replace(temporary, path)
    sync_folder(path.parent)


def discard(handle: BinaryIO, temporary: Path) -> None:
    """Close and remove a file that is not wanted any more; a full disk refuses to flush it, which does not matter."""
    with suppress(OSError):
        handle.close()
    temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends, and vanishes when the block raises."""
    temporary = temporary_name(path)
    handle = temporary.open("wb")
    try:
        with named(path):
            yield handle
        publish(handle, temporary, path)
    finally:
        discard(handle, temporary)
