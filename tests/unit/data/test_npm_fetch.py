"""Packages come from the cache or from `npm pack`, and only with the pinned hash; `npm` is played by a script here."""

import base64
import hashlib
import io
import os
import stat
import sys
import tarfile
from pathlib import Path

import pytest

from mmclip_data.pipelines.npm import NpmError, NpmPackage, fetch

CONTENT = {"package/package.json": b"{}", "package/assets/1f600.webp": b"RIFF"}


def pack(members: dict[str, bytes]) -> tuple[bytes, NpmPackage]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, payload in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(payload)
            archive.addfile(header, io.BytesIO(payload))
    raw = buffer.getvalue()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(raw).digest()).decode()
    return raw, NpmPackage("@scope/pictures", "1.2.3", integrity)


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a program called npm on an otherwise empty PATH."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_a_tarball_in_the_cache_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, package = pack(CONTENT)
    (tmp_path / "scope-pictures-1.2.3.tgz").write_bytes(raw)
    monkeypatch.setenv("PATH", "")
    folder = fetch(package, tmp_path)
    assert {str(p.relative_to(folder.parent)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == CONTENT
    (tmp_path / "scope-pictures-1.2.3.tgz").unlink()
    assert fetch(package, tmp_path) == folder, "an unpacked folder is used again"


def test_a_missing_tarball_is_packed_by_npm_without_running_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, package = pack(CONTENT)
    (tmp_path / "source.tgz").write_bytes(raw)
    body = (
        "expected = ['pack', '@scope/pictures@1.2.3', '--json', '--ignore-scripts', '--pack-destination']\n"
        "assert sys.argv[1:-1] == expected\n"
        f"target = pathlib.Path(sys.argv[-1]) / 'anything.tgz'\n"
        f"target.write_bytes(pathlib.Path({str(tmp_path / 'source.tgz')!r}).read_bytes())"
    )
    install_npm(tmp_path / "bin", monkeypatch, body)
    cache = tmp_path / "deep" / "cache"
    assert (fetch(package, cache) / "assets" / "1f600.webp").read_bytes() == b"RIFF"
    assert sorted(os.listdir(cache)) == ["scope-pictures-1.2.3", "scope-pictures-1.2.3.tgz"]


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_unpacked(tmp_path: Path) -> None:
    _, package = pack(CONTENT)
    other, _ = pack({"package/package.json": b"{ }"})
    (tmp_path / "scope-pictures-1.2.3.tgz").write_bytes(other)
    with pytest.raises(NpmError, match=r"expected sha512-.* for @scope/pictures@1\.2\.3; delete the file"):
        fetch(package, tmp_path)
    assert not (tmp_path / "scope-pictures-1.2.3").exists()


def test_a_package_that_writes_outside_its_folder_is_refused(tmp_path: Path) -> None:
    raw, package = pack({"package/../../escaped": b"x"})
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "scope-pictures-1.2.3.tgz").write_bytes(raw)
    with pytest.raises(NpmError, match="cannot be unpacked safely"):
        fetch(package, cache)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "scope-pictures-1.2.3.tgz"]


def test_a_missing_npm_and_an_unreachable_registry_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, package = pack(CONTENT)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NpmError, match=r"npm is not installed; .*put scope-pictures-1\.2\.3\.tgz into"):
        fetch(package, tmp_path)
    install_npm(tmp_path / "bin", monkeypatch, "sys.exit('npm error code ENOTFOUND')")
    with pytest.raises(NpmError, match=r"`npm pack` failed \(exit 1\): npm error code ENOTFOUND"):
        fetch(package, tmp_path)
    assert list(tmp_path.glob(".download-*")) == []
