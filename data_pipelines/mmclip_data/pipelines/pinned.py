"""Files that a package registry publishes, pinned by version and hash, unpacked into a cache folder; nothing of them is run."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmclip.errors import UserError

TIMEOUT_SECONDS = 900
MARKER = ".sha256"


class FetchError(UserError):
    """A package that cannot be had: its tool is missing or fails, or the bytes are not those pinned."""


class PinnedFile(NamedTuple):
    """One published file of one version."""

    name: str
    version: str
    file: str
    sha256: str


def fetch_pinned(
    pinned: PinnedFile,
    cache: Path,
    download: Callable[[PinnedFile, Path], None],
    unpack: Callable[[Path, Path], None],
) -> Path:
    """The folder with what is in the file; what `cache` has already is neither downloaded nor unpacked again.

    `download` puts the file into a folder, `unpack` its content into another, which then appears as a whole.

    Raises:
        FetchError: it cannot be had, or its hash is not the pinned one.
    """
    folder, marker = cache / f"{pinned.name}-{pinned.version}", cache / f"{pinned.name}-{pinned.version}" / MARKER
    if marker.is_file() and marker.read_text() == pinned.sha256:
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    published = cache / pinned.file
    if not published.is_file():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
            download(pinned, Path(temporary))
            found = [*Path(temporary).iterdir()]
            if len(found) != 1:
                raise FetchError(f"{pinned.name} {pinned.version}: {len(found)} files came, expected {pinned.file}")
            found[0].replace(published)
    _verify(pinned, published)
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix=".unpack-"))
    try:
        unpack(published, temporary)
        (temporary / MARKER).write_text(pinned.sha256)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def run_tool(command: Sequence[str], pinned: PinnedFile, folder: Path, install: str) -> None:
    """Run a downloader in `folder`; `install` says how to get it where it is missing.

    Raises:
        FetchError: it is missing, fails, or does not answer.
    """
    what, tool = f"{pinned.name} {pinned.version}", " ".join(command[:2])
    by_hand = f"or put {pinned.file} into {folder.parent}"
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=folder)
    except FileNotFoundError as error:
        raise FetchError(f"{what}: {command[0]} is not installed; {install}, {by_hand}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{what}: `{tool}` did not end within {TIMEOUT_SECONDS} s; try again, {by_hand}") from error
    except subprocess.CalledProcessError as error:
        complaint = " | ".join(error.stderr.strip().splitlines()[-4:])
        raise FetchError(
            f"{what}: `{tool}` failed (exit {error.returncode}): {complaint}; check the network, {by_hand}"
        ) from error


def _verify(pinned: PinnedFile, published: Path) -> None:
    with published.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != pinned.sha256:
        raise FetchError(
            f"{published}: SHA-256 {found}, expected {pinned.sha256} for {pinned.name} {pinned.version}; "
            "delete the file and try again"
        )
