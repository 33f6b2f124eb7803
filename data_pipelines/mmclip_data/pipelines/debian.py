"""Packages of Debian's archive as plain archives of files: downloaded and unpacked, never installed."""

from pathlib import Path

from mmclip_data.pipelines.pinned import PinnedFile, fetch_pinned, run_tool


def fetch_debian(package: PinnedFile, cache: Path) -> Path:
    """The folder with the files of a package, below it as they would be below `/`.

    Raises:
        FetchError: apt-get or dpkg-deb is missing or fails, or the package's hash is not the pinned one.
    """

    def unpack(published: Path, folder: Path) -> None:
        run_tool(
            ["dpkg-deb", "-x", str(published.resolve()), "."], package, folder, "install it (`apt-get install dpkg`)"
        )

    return fetch_pinned(package, cache, _download, unpack)


def _download(package: PinnedFile, folder: Path) -> None:
    # As root, apt would hand the download to a user who may not write here, and warn.
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"{package.name}={package.version}"]
    run_tool(command, package, folder, "it is Debian's and its descendants' (run `apt-get update` first)")
