"""Our reading of tar headers against the standard library's and GNU tar's."""

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmclip.errors import UserError
from mmclip_data.shards import build_index
from mmclip_data.shards.headers import BLOCK, HeaderReader, TarDamage, parse_header

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KINDS = [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"7"]
Found = list[tuple[str, bytes, int, int]]


@dataclass(frozen=True)
class Archive:
    raw: bytes = field(repr=False)
    tar_format: str


names = st.text(st.sampled_from("ab./_ é猫\udcff"), min_size=1, max_size=12) | st.builds(
    lambda part, times: "/".join([part] * times), st.text("xyé.", min_size=1, max_size=30), st.integers(2, 9)
)


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """Tars of every format, with folders, links, owners and dates of every kind, pax records and global headers."""
    tar_format = draw(st.sampled_from(sorted(FORMATS)))
    records = st.dictionaries(
        st.sampled_from(["comment", "path", "mtime", "size", "SCHILY.x"]), st.text("ab/1=\n", max_size=9)
    )
    buffer = io.BytesIO()
    options = {"pax_headers": {"comment": draw(st.text(max_size=5))}} if draw(st.booleans()) else {}
    with tarfile.open(
        fileobj=buffer, mode="w", format=FORMATS[tar_format], errors="surrogateescape", **options
    ) as archive:
        archive.addfile(tarfile.TarInfo("first"))  # a global header alone is an error to tarfile too
        for name in draw(st.lists(names, max_size=6)):
            header = tarfile.TarInfo(name)
            header.type = draw(st.sampled_from(KINDS))
            if header.type == tarfile.AREGTYPE and "/" in name:
                header.type = (
                    tarfile.REGTYPE
                )  # an old type whose (cut) name ends in a slash is a folder to tarfile, data or not
            payload = draw(st.binary(max_size=1100)) if header.isreg() else b""
            header.size, header.linkname = len(payload), draw(names) if header.islnk() or header.issym() else ""
            header.uid, header.mtime = draw(st.integers(0, 2**21 - 1)), draw(st.integers(0, 2**33 - 1))
            header.uname = draw(st.text("üa", max_size=9))
            if tar_format == "pax" and draw(st.booleans()):
                header.pax_headers = {k: v for k, v in draw(records).items() if k not in ("size", "mtime")}
            try:
                archive.addfile(header, io.BytesIO(payload))
            except (ValueError, UnicodeError):  # does not fit a ustar header
                continue
    return Archive(buffer.getvalue(), tar_format)


def by_tarfile(raw: bytes) -> Found:
    with tarfile.TarFile(fileobj=io.BytesIO(raw), mode="r", encoding="utf-8", errors="backslashreplace") as archive:
        return [(member.name, member.type, member.offset_data, member.size) for member in archive]


def by_us(raw: bytes) -> Found:
    reader, found, offset = HeaderReader(io.BytesIO(raw), len(raw)), [], 0
    while (entry := reader.entry(offset)) is not None:
        found.append((entry.name, entry.kind, entry.data, entry.size))
        offset = entry.end
    return found


@given(archives())
def test_members_are_those_that_tarfile_finds(archive: Archive) -> None:
    raw = archive.raw
    assert by_us(raw) == by_tarfile(raw)


@given(archives(), st.data())
def test_a_changed_tar_is_read_as_tarfile_reads_it_or_refused(archive: Archive, data: st.DataObject) -> None:
    raw = archive.raw
    place = data.draw(st.integers(0, len(raw) - 1))
    raw = raw[:place] + bytes([raw[place] ^ data.draw(st.integers(1, 255))]) + raw[place + 1 :]
    try:
        found = by_us(raw)
    except TarDamage as damage:
        assert 0 <= damage.start <= len(raw)  # noqa: PT017  (the other branch is as good)
    else:
        assert found == by_tarfile(raw)


@pytest.mark.parametrize("size", [0, 7, 8**11 - 1, 8**11, 2**40])
def test_sizes_above_8_gib_are_read_in_base_256(size: int) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = size
    block = header.tobuf(tarfile.GNU_FORMAT)
    assert parse_header(block) == ("a.jpg", b"0", size)


def test_a_size_may_stand_in_a_pax_record(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = 5
    header.pax_headers = {"size": "5"}
    raw = header.tobuf(tarfile.PAX_FORMAT) + b"hello".ljust(BLOCK, b"\0") + bytes(1024)
    zeroed = tarfile.TarInfo("a.jpg")
    raw = raw[: -3 * BLOCK - BLOCK] + zeroed.tobuf(tarfile.USTAR_FORMAT) + raw[-3 * BLOCK :]
    assert by_us(raw) == by_tarfile(raw) == [("a.jpg", b"0", len(raw) - 3 * BLOCK, 5)]


def test_checksums_of_signed_bytes_are_accepted_as_tarfile_does() -> None:
    header = bytearray(tarfile.TarInfo("größe.jpg").tobuf(tarfile.GNU_FORMAT))
    unsigned, signed = tarfile.calc_chksums(bytes(header))  # type: ignore[attr-defined]
    assert unsigned != signed
    for checksum in (unsigned, signed):
        header[148:156] = b"%06o\0 " % checksum
        assert parse_header(bytes(header)).name == "größe.jpg"
    header[148:156] = b"%06o\0 " % (signed + 1)
    with pytest.raises(ValueError, match="checksum"):
        parse_header(bytes(header))


@pytest.mark.parametrize("kind", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size"])
def test_sparse_files_in_pax_records_are_refused(tmp_path: Path, kind: str) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.pax_headers = {kind: "1"}
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="a sparse file"):
        build_index(tmp_path / "a.tar")


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize("tar_format", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_what_gnu_tar_packs_is_read(tmp_path: Path, tar_format: str) -> None:
    folder = tmp_path / "pictures"
    for name in (
        "a.jpg",
        "größe.txt",
        "deep/er/b.jpg",
        "long" * 20 + ".jpg",
        "folder" * 12 + "/" + "name" * 10 + ".txt",
    ):
        if tar_format == "v7" and len(name) > 80:
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 50)
    command = ["tar", f"--format={tar_format}", "-cf", str(tmp_path / "a.tar"), "-C", str(folder), "."]
    subprocess.run(command, check=True, capture_output=True)
    raw = (tmp_path / "a.tar").read_bytes()
    assert by_us(raw) == by_tarfile(raw)
    index = build_index(tmp_path / "a.tar")
    for sample in range(index.num_samples):
        for extension, member in index.members(sample).items():
            name = f"{index.key(sample)}.{extension}".removeprefix("./")
            assert raw[member.offset : member.offset + member.size] == (folder / name).read_bytes()
    assert index.num_samples == sum(path.is_file() for path in folder.rglob("*"))
