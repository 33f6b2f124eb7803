"""The index against the standard library's and webdataset's reading of the same tar, and against damage."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from webdataset.compat import WebDataset
from webdataset.tariterators import base_plus_ext

from mmclip.errors import UserError
from mmclip_data.shards import (
    build_index,
    expand_shards,
    index_path,
    load_index,
    open_index,
    write_index,
)
from mmclip_data.shards.columns import IDENTITY_COLUMNS
from mmclip_data.shards.names import split_name

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[arg-type]
        for name, payload in members:
            header = tarfile.TarInfo(name)
            header.size = len(payload)
            archive.addfile(header, io.BytesIO(payload))
    return path


def sample_members(count: int, size: int = 700) -> Members:
    source = random.Random(7)
    return [
        (f"{key:04d}.{extension}", source.randbytes(source.randrange(1, size)))
        for key in range(count)
        for extension in ("jpg", "json", "txt")
    ]


def test_index_points_at_the_bytes_that_tarfile_extracts(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample_members(20))
    index, raw = build_index(tar), tar.read_bytes()
    with tarfile.open(tar) as archive:
        expected = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    found = {}
    for sample in range(index.num_samples):
        for extension, member in index.members(sample).items():
            payload = raw[member.offset : member.offset + member.size]
            assert member.checksum == xxhash.xxh3_64_intdigest(payload)
            found[f"{index.key(sample)}.{extension}"] = payload
    assert found == expected
    assert index.extension_counts() == {"jpg": 20, "json": 20, "txt": 20}


def test_index_groups_samples_as_webdataset_does(tmp_path: Path) -> None:
    members = [("a.b/im.v1.JPG", b"1"), ("a.b/im.txt", b"2"), ("c/im.JPG", b"3"), ("d.cls", b"4"), ("__meta__", b"5")]
    tar = write_tar(tmp_path / "a.tar", members)
    index = build_index(tar)
    ours = {index.key(i): set(index.members(i)) for i in range(index.num_samples)}
    theirs = {
        sample["__key__"]: {name for name in sample if not name.startswith("__")}
        for sample in WebDataset(str(tar), shardshuffle=False)
    }
    assert ours == theirs == {"a.b/im": {"v1.jpg", "txt"}, "c/im": {"jpg"}, "d": {"cls"}}


@given(st.text(st.sampled_from("a.b_/"), min_size=1, max_size=12))
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    """Hidden files differ on purpose: webdataset reads `a/.b.c` as extension `b.c` of a sample `a/`."""
    base = name.rpartition("/")[2]
    split = split_name(name)
    if not base.startswith(".") and not name.startswith("__"):
        key, extension = base_plus_ext(name)
        assert split == (None if key is None else (key, extension))
    elif base.startswith("."):
        assert split is None


def test_members_of_a_sample_may_stand_apart(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("b.jpg", b"1"), ("a.jpg", b"2"), ("b.txt", b"3"), ("a.txt", b"4")])
    index = build_index(tar)
    assert [index.key(i) for i in range(2)] == ["b", "a"]
    assert [list(index.members(i)) for i in range(2)] == [["jpg", "txt"], ["jpg", "txt"]]


def test_long_and_non_ascii_names_survive(tmp_path: Path) -> None:
    names = ["x" * 200 + "/" + "y" * 150 + ".jpg", "größe/猫.txt", "plain.txt"]
    for number, tar_format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        tar = write_tar(tmp_path / f"{number}.tar", [(name, b"p") for name in names], format=tar_format)
        index = build_index(tar)
        assert [index.key(i) for i in range(3)] == [name.rpartition(".")[0] for name in names]


def test_index_file_gives_back_an_equal_index_and_the_same_bytes(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [*sample_members(5), ("README", b"no extension")])
    index = build_index(tar)
    write_index(index, index_path(tar))
    again = open_index(tar)
    assert again.fingerprint == index.fingerprint
    assert [again.members(i) for i in range(5)] == [index.members(i) for i in range(5)]
    assert (again.ignored_members, again.ignored_names) == (1, ("README",))
    first = index_path(tar).read_bytes()
    write_index(again, index_path(tar))
    assert index_path(tar).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_fingerprint_names_the_content_and_not_the_layout(tmp_path: Path) -> None:
    members = sample_members(4)
    plain = build_index(write_tar(tmp_path / "a.tar", members)).fingerprint
    moved = build_index(write_tar(tmp_path / "b.tar", [("README", b"x" * 5000), *members])).fingerprint
    changed = build_index(write_tar(tmp_path / "c.tar", [(members[0][0], b"other"), *members[1:]])).fingerprint
    renamed = build_index(write_tar(tmp_path / "d.tar", [(f"x{name}", data) for name, data in members])).fingerprint
    assert plain == moved
    assert len({plain, changed, renamed}) == 3
    assert len(plain) == 32


def test_every_cut_of_a_shard_is_an_error(tmp_path: Path) -> None:
    raw = write_tar(tmp_path / "whole.tar", sample_members(8)).read_bytes()
    end = len(raw.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    for size in range(0, end, 256):
        cut.write_bytes(raw[:size])
        with pytest.raises(UserError, match=r"cut\.tar"):
            build_index(cut)


def test_a_damaged_header_is_an_error_and_not_the_end_of_the_shard(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample_members(8))
    raw = tar.read_bytes()
    with tarfile.open(tar) as archive:
        offsets = [member.offset for member in archive]
    for offset in offsets:
        for damage in (bytes(512), b"\xff" + raw[offset + 1 : offset + 512]):
            tar.write_bytes(raw[:offset] + damage + raw[offset + 512 :])
            with pytest.raises(UserError, match=rf"a\.tar.*(byte {offset}\b|cannot be read)"):
                build_index(tar)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>" * 40, "HTML"),
        (b'{"error": "denied"}' * 60, "JSON"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 600, "git lfs pull"),
        (b"random words " * 100, "cannot be read as a tar"),
        (bytes(10240), "no sample"),
    ],
)
def test_files_that_are_no_tar_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_index(tmp_path / "a.tar")


def test_a_key_with_one_extension_twice_is_an_error_also_when_only_the_case_differs(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("k.jpg", b"1"), ("other.jpg", b"2"), ("k.JPG", b"3")])
    with pytest.raises(UserError, match=r"key 'k' has two members 'jpg', at bytes 512 and 2560"):
        build_index(tar)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
        header = tarfile.TarInfo("b.jpg")
        header.type, header.linkname = kind, "/etc/passwd"
        archive.addfile(header)
    with pytest.raises(UserError, match=r"'b\.jpg' at byte 512 is a link"):
        build_index(tar)


def test_more_extensions_than_a_shard_can_mean_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"im{number}.v{number}.txt", b"x") for number in range(300)])
    with pytest.raises(UserError, match=r"300 different extensions, more than 256, the last is 'v299\.txt'"):
        build_index(tar)


MERGED = {
    "versions with captions": [f"im.v{n}.0.{ext}" for n in range(4) for ext in ("jpg", "txt")],
    "versions without captions": [f"im.v{n}.jpg" for n in range(4)],
    "a version beside the plain one": ["im.jpg", "im.txt", "im.v2.jpg", "im.v2.txt", "b.jpg", "b.txt", "c.jpg"],
    "dates": [f"photo.2021.05.{day:02d}.png" for day in range(1, 9)] + ["other.png", "third.png", "fourth.PNG"],
}


@pytest.mark.parametrize("names", MERGED.values(), ids=MERGED)
def test_samples_that_met_under_one_key_by_a_dot_in_their_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    """webdataset hands them on as one sample, in silence."""
    tar = write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    merged = max(WebDataset(str(tar), shardshuffle=False), key=len)
    pictures = [name for name in merged if name.endswith(("jpg", "png"))]
    assert len(pictures) > 1
    with pytest.raises(
        UserError,
        match=rf"key '{merged['__key__']}' would join {len(pictures)} pictures.*{len(pictures)} names met under 1 keys",
    ):
        build_index(tar)


VIEWS = {
    "two views of each sample": [f"{key}.{view}.jpg" for key in range(3) for view in ("left", "right")],
    "an extra picture of some": ["0.jpg", "0.txt", "0.thumb.jpg", "1.jpg", "1.txt", "2.jpg", "2.txt"],
    "one dotted picture a key": ["a.v1.jpg", "a.txt", "b.v2.jpg", "b.txt"],
    "dotted texts": ["a.jpg", "a.en.txt", "a.fr.txt", "b.jpg", "b.en.txt"],
}


@pytest.mark.parametrize("names", VIEWS.values(), ids=VIEWS)
def test_several_pictures_of_a_sample_are_no_mistake(tmp_path: Path, names: list[str]) -> None:
    tar = write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    assert build_index(tar).num_members == len(names)


def test_open_index_notices_that_the_shard_changed_its_size(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample_members(3))
    with pytest.raises(UserError, match=r"no index at .* `mmclip shards index"):
        open_index(tar)
    write_index(build_index(tar), index_path(tar))
    tar.write_bytes(tar.read_bytes()[:-1024])
    with pytest.raises(UserError, match="cut short after it was indexed"):
        open_index(tar)
    with pytest.raises(UserError, match="no such file"):
        open_index(tmp_path / "b.tar")


def test_every_truncation_and_change_of_an_index_file_is_named_or_harmless(tmp_path: Path) -> None:
    """Columns are checked as they are used; a checksum's flipped bit shows as a bad sample later, never as a crash."""
    tar = write_tar(tmp_path / "a.tar", sample_members(3))
    index = build_index(tar)
    path = index_path(tar)
    write_index(index, path)
    raw = path.read_bytes()
    for size in range(0, len(raw), 37):
        path.write_bytes(raw[:size])
        with pytest.raises(UserError, match="mmclip shards index"):
            load_index(path)
    for position in range(0, len(raw), 5):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 0x41]) + raw[position + 1 :])
        try:
            damaged = load_index(path)
        except UserError:
            continue
        try:
            keys = [damaged.key(sample) for sample in range(damaged.num_samples)]
            members = [damaged.members(sample) for sample in range(damaged.num_samples)]
        except UserError as error:
            assert "mmclip shards index --force" in str(error)  # noqa: PT017  (no error is as good)
            assert damaged.first_problem()
            continue
        whole = [index.members(sample) for sample in range(3)]
        if keys != ["0000", "0001", "0002"] or members != whole:
            assert damaged.first_problem() or damaged.extensions != index.extensions
        assert all(m.offset + m.size <= damaged.tar_size for sample in members for m in sample.values())


def test_an_index_that_points_past_its_tar_or_is_of_a_later_version_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample_members(3))
    index = build_index(tar)
    path = index_path(tar)
    write_index(index, path)
    header = json.loads(json.loads(path.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")["__metadata__"]["mmidx"])
    columns = load(path.read_bytes())

    def rewrite(changes: dict[str, object]) -> None:
        path.write_bytes(save(columns, metadata={"mmidx": json.dumps(header | changes)}))

    for version in (3, 0, "2", None):
        rewrite({"version": version})
        with pytest.raises(UserError, match=f"format version {version}, this mmclip reads versions 1 and 2"):
            load_index(path)
    rewrite({"tar_size": 1000})
    assert load_index(path).first_problem() == "a member ends past the tar's 1000 bytes"
    with pytest.raises(UserError, match="contradicts the rest"):
        load_index(path).members(2)
    rewrite({"mislabelled": [], "salvage": 7})
    with pytest.raises(UserError, match="not a readable index"):
        load_index(path)
    rewrite({"num_samples": 4})
    with pytest.raises(UserError, match="header says 4 samples, the columns hold 3"):
        load_index(path)
    columns["a_later_column"] = columns["member_size"]
    rewrite({})
    assert load_index(path).fingerprint == index.fingerprint


def test_an_index_folder_keeps_equal_names_of_two_folders_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tar = write_tar(tmp_path / name / "0.tar", [(f"{name}.txt", name.encode())])
        write_index(build_index(tar), index_path(tar, tmp_path))
    keys = [open_index(tmp_path / name / "0.tar", tmp_path).key(0) for name in ("a", "b")]
    assert keys == ["a", "b"]


def test_samples_outside_the_shard_are_an_index_error(tmp_path: Path) -> None:
    index = build_index(write_tar(tmp_path / "a.tar", sample_members(2)))
    for sample in (-1, 2):
        with pytest.raises(IndexError, match="shard with 2 samples"):
            index.members(sample)


def test_fingerprints_are_those_of_the_first_format() -> None:
    """Runs name their data by them: one that moved would refuse to resume."""
    (noto,) = expand_shards("embedded:emoji/train-noto.tar")
    assert build_index(noto).fingerprint == open_index(noto).fingerprint == "6c4328ad1b2661e21511f34d8592a1e6"


def test_an_index_of_the_first_format_is_read_and_lacks_only_the_facts(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sample_members(5))
    index = build_index(tar)
    header = {"version": 1, "tar_size": index.tar_size, "num_samples": 5, "extensions": index.extensions}
    header |= {"ignored_members": 0, "ignored_names": []}
    columns = {name: index.columns[name] for name in IDENTITY_COLUMNS}
    index_path(tar).write_bytes(save(columns, metadata={"mmidx": json.dumps(header)}))
    old = open_index(tar)
    assert (old.version, old.stored_fingerprint, old.fingerprint) == (1, None, index.fingerprint)
    assert [old.members(row) for row in range(5)] == [index.members(row) for row in range(5)]
    assert old.columns["sample_caption_bytes"].tolist() == [0] * 5
    assert old.first_problem() is None
