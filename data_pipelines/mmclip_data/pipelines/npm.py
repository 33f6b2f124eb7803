"""Fetches packages from the npm registry into a cache folder, pinned by version and hash; nothing of them is run."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from mmclip.errors import UserError

TIMEOUT_SECONDS = 600
MARKER = ".integrity"


class NpmError(UserError):
    """A package that cannot be had: npm is missing or fails, or the bytes are not those pinned."""


class NpmPackage(NamedTuple):
    """One published version; `integrity` is the registry's `dist.integrity`, the SHA-512 of the tarball in base64."""

    name: str
    version: str
    integrity: str

    @property
    def stem(self) -> str:
        """The tarball's name without `.tgz`, as `npm pack` writes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


def fetch(package: NpmPackage, cache: Path) -> Path:
    """The folder with the files of `package`; a tarball or folder that is already in `cache` is not downloaded again.

    Raises:
        NpmError: npm is not installed or fails, or the tarball's hash is not the pinned one.
    """
    folder = cache / package.stem
    marker = folder / MARKER
    if not (marker.is_file() and marker.read_text() == package.integrity):
        cache.mkdir(parents=True, exist_ok=True)
        tarball = cache / f"{package.stem}.tgz"
        if not tarball.is_file():
            _download(package, tarball)
        _verify(package, tarball)
        _extract(package, tarball, folder)
    return folder / "package"


def _download(package: NpmPackage, tarball: Path) -> None:
    spec = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory(dir=tarball.parent, prefix=".download-") as temporary:
        command = ["npm", "pack", spec, "--json", "--ignore-scripts", "--pack-destination", temporary]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        except FileNotFoundError as error:
            raise NpmError(
                f"{spec}: npm is not installed; install it (`apt-get install npm`), "
                f"or put {tarball.name} into {tarball.parent}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise NpmError(f"{spec}: no answer from the npm registry in {TIMEOUT_SECONDS} s; try again") from error
        except subprocess.CalledProcessError as error:
            complaint = " | ".join(error.stderr.strip().splitlines()[-4:])
            raise NpmError(
                f"{spec}: `npm pack` failed (exit {error.returncode}): {complaint}; "
                f"check the network, or put {tarball.name} into {tarball.parent}"
            ) from error
        packed = list(Path(temporary).glob("*.tgz"))
        if len(packed) != 1:
            raise NpmError(f"{spec}: `npm pack` left {len(packed)} tarballs, expected one")
        packed[0].replace(tarball)


def _verify(package: NpmPackage, tarball: Path) -> None:
    with tarball.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha512").digest()
    integrity = f"sha512-{base64.b64encode(digest).decode()}"
    if integrity != package.integrity:
        raise NpmError(
            f"{tarball}: hash {integrity}, expected {package.integrity} for {package.name}@{package.version}; "
            "delete the file and try again"
        )


def _extract(package: NpmPackage, tarball: Path, folder: Path) -> None:
    """Unpack beside `folder` and rename, so that a killed run leaves no half-filled folder that looks complete."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".extract-"))
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            archive.extractall(temporary, filter="data")
        (temporary / MARKER).write_text(package.integrity)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except tarfile.TarError as error:
        raise NpmError(f"{tarball}: cannot be unpacked safely ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
