"""Bytes that come once: files, pipes of a shell (only when that is allowed), standard input, objects on stores."""

import subprocess
import sys
from pathlib import Path

from mmclip.errors import MachineError, UserError
from mmclip_data.loading.strict_tar import Readable
from mmclip_data.shards.expand import braces, expand_shards
from mmclip_data.stores import CacheConfig
from mmclip_data.stores.filesystems import BLOCK_BYTES
from mmclip_data.stores.opening import open_store
from mmclip_data.stores.urls import StoreUrl, is_url

PIPE, STDIN = "pipe:", "-"


def stream_names(shards: str | tuple[str, ...], allow_shell: bool) -> list[str]:
    """The streams that `shards` names; brace lists are written out, files must be there.

    Raises:
        UserError: a pipe where no shell is allowed, a file that is not there, or nothing at all.
    """
    parts = [part for text in ([shards] if isinstance(shards, str) else shards) for part in _split(text)]
    names: list[str] = []
    for part in parts:
        if part.startswith(PIPE) and not allow_shell:
            raise UserError(
                f"data.source.shards: {part.split()[0]} ... would run a shell command that stands in the run file: set "
                "data.source.allow_shell = true if you wrote it, or name the shards by URL (s3://, gs://, hf://, https://)"
            )
        if part == STDIN:
            names.append(part)
        elif part.startswith(PIPE) or is_url(part):
            names += braces(part, part)
        else:
            names += [str(path) for path in _files(part)]
    if not names:
        raise UserError("data.source.shards names nothing to stream")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"data.source.shards names {twice[0]} twice")
    return names


def open_stream(name: str) -> Readable:
    """The bytes of a stream; who opens a pipe has checked that it may run.

    Raises:
        OSError: the file cannot be opened.
        StoreError: the object cannot be read.
    """
    if name == STDIN:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    if name.startswith(PIPE):
        return _Command(name.removeprefix(PIPE))
    return _Object(StoreUrl.parse(name)) if is_url(name) else Path(name).open("rb")


def _split(text: str) -> list[str]:
    # A command may hold `::` of its own only when it is the whole of the text.
    return [text] if text.startswith(PIPE) and f"::{PIPE}" not in text else text.split("::")


def _files(part: str) -> list[Path]:
    """As for indexed shards, and the compressed tars of a folder too."""
    folder = Path(part)
    packed = sorted(
        path for path in folder.glob("*.t*") if path.name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"))
    )
    return packed if folder.is_dir() and packed else expand_shards(part)


class _Command:
    """What a command of the user's shell prints."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.process = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def read(self, size: int, /) -> bytes:
        """More of its output.

        Raises:
            MachineError: it has ended with an error.
        """
        piece = self.output.read(size)
        if not piece and self.process.wait():
            raise MachineError(
                f"the command {self.command.split()[0]!r} of a pipe: shard ended with exit code {self.process.returncode}"
            )
        return piece

    def close(self) -> None:
        """End the command, which may not have been read to its end."""
        self.output.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class _Object:
    """An object on a store, block after block; a cut answer is taken up where it ended."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self.store = open_store(url.protocol, CacheConfig())
        self.facts = self.store.facts(url)
        self.place = 0
        self.block = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """More of it."""
        if not self.block and self.place < self.facts.size:
            end = min(self.place + BLOCK_BYTES, self.facts.size)
            self.block, self.place = memoryview(self.store.read(self.url, self.facts, self.place, end)), end
        piece, self.block = self.block[:size], self.block[size:]
        return bytes(piece)

    def close(self) -> None:
        """Forget the block."""
        self.block = memoryview(b"")
