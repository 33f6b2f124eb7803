"""What the writer writes is read back by us, by the standard library and by webdataset; what is damaged is named."""

import copy
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from mmclip.errors import BadSampleError, UserError
from mmclip_data.shards import ShardReader, ShardWriter, build_index, index_path, open_index
from mmclip_data.shards.write import member_header


def members_of(number: int) -> dict[str, bytes]:
    return {"txt": f"caption {number}".encode(), "jpg": bytes(range(number % 256)) * 9, "cls": b""}


def write(folder: Path, count: int, per_shard: int | None = 4) -> list[Path]:
    with ShardWriter(folder, "train-{:06d}.tar", per_shard) as writer:
        for number in range(count):
            writer.add(f"s{number:07d}", members_of(number))
    return writer.paths


def test_written_samples_come_back_in_any_order(tmp_path: Path) -> None:
    paths = write(tmp_path, 10)
    assert [path.name for path in paths] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    found = {}
    for path in reversed(paths):
        with ShardReader(path, open_index(path)) as reader:
            for sample in reversed(range(reader.index.num_samples)):
                found[reader.index.key(sample)] = reader.read(sample)
    assert found == {f"s{number:07d}": members_of(number) for number in range(10)}


def test_written_shards_are_what_webdataset_reads(tmp_path: Path) -> None:
    write(tmp_path, 10)
    samples = list(WebDataset(str(tmp_path / "train-{000000..000002}.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"s{number:07d}" for number in range(10)]
    assert all({k: s[k] for k in ("cls", "jpg", "txt")} == members_of(i) for i, s in enumerate(samples))


def test_the_writers_index_is_the_one_that_a_walk_builds(tmp_path: Path) -> None:
    for path in write(tmp_path, 10):
        walked, written = build_index(path), open_index(path)
        assert walked.fingerprint == written.fingerprint
        assert walked.tar_size == written.tar_size
        assert [walked.members(i) for i in range(2)] == [written.members(i) for i in range(2)]


def test_the_tar_is_byte_for_byte_the_one_that_tarfile_writes(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 3, per_shard=None)
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(3):
            for extension, payload in sorted(members_of(number).items()):
                header = tarfile.TarInfo(f"s{number:07d}.{extension}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
    assert path.read_bytes() == expected.getvalue()


@given(st.text(min_size=1, max_size=120), st.integers(0, 2**33 - 1))
def test_member_headers_are_those_of_tarfile(name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    try:
        expected = header.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:
        with pytest.raises(ValueError, match=r"name is too long|encode|codec"):
            member_header(name, size)
    else:
        assert member_header(name, size) == expected


def test_two_runs_write_the_same_bytes_whatever_the_order_of_the_members(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a") as a, ShardWriter(tmp_path / "b") as b:
        for number in range(5):
            a.add(f"k{number}", members_of(number))
            b.add(f"k{number}", dict(reversed(members_of(number).items())))
    for name in ("000000.tar", "000000.tar.mmidx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_error_leaves_complete_shards_and_no_half_one(tmp_path: Path) -> None:
    def fill() -> None:
        with ShardWriter(tmp_path, "{}.tar", 2) as writer:
            for number in range(3):
                writer.add(f"k{number}", members_of(number))
            raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError):
        fill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "0.tar.mmidx"]


@pytest.mark.parametrize(
    ("key", "members", "message"),
    [
        ("k.v1", {"jpg": b""}, "would not be read back"),
        ("", {"jpg": b""}, "would not be read back"),
        ("__k__/a", {"jpg": b""}, "would not be read back"),
        ("k", {"JPG": b""}, "would not be read back"),
        ("k", {"a/b": b""}, "would not be read back"),
        ("k", {}, "no members"),
        ("first", {"jpg": b""}, "added twice"),
        ("k" * 300, {"jpg": b""}, "use a shorter key"),
    ],
)
def test_names_that_no_reader_would_give_back_are_refused(
    tmp_path: Path, key: str, members: dict[str, bytes], message: str
) -> None:
    writer = ShardWriter(tmp_path)
    writer.add("first", {"jpg": b""})
    with pytest.raises(UserError, match=message):
        writer.add(key, members)
    writer.close()
    assert open_index(tmp_path / "000000.tar").num_samples == 1


def test_a_pattern_without_a_number_is_for_one_shard_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a place for the shard's number"):
        ShardWriter(tmp_path, "only.tar", 10)
    with ShardWriter(tmp_path, "only.tar", None) as writer:
        writer.add("k", {"txt": b"x"})
    assert writer.paths == [tmp_path / "only.tar"]


def test_every_flipped_bit_of_a_payload_is_a_named_bad_sample(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 3, per_shard=None)
    index, raw = open_index(path), path.read_bytes()
    caption = index.members(1)["txt"]
    for bit in range(caption.size * 8):
        damaged = bytearray(raw)
        damaged[caption.offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        with ShardReader(path, index) as reader:
            with pytest.raises(
                BadSampleError, match=r"train-000000\.tar, key 's0000001', member 'txt': expected checksum"
            ):
                reader.read(1)
            assert reader.read(0) == members_of(0)


def test_a_shard_cut_after_it_was_indexed_loses_only_the_samples_behind_the_cut(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 5, per_shard=None)
    index = open_index(path)
    path.write_bytes(path.read_bytes()[: index.members(3)["txt"].offset + 4])
    with ShardReader(path, index) as reader:
        assert [reader.read(sample) for sample in range(3)] == [members_of(sample) for sample in range(3)]
        with pytest.raises(BadSampleError, match="member 'txt': expected 9 bytes, got 4 bytes"):
            reader.read(3)


def test_only_the_extensions_asked_for_are_read(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 2, per_shard=None)
    index = open_index(path)
    raw = bytearray(path.read_bytes())
    raw[index.members(1)["jpg"].offset] ^= 1
    path.write_bytes(bytes(raw))
    with ShardReader(path, index) as reader:
        assert reader.read(1, {"txt", "webp"}) == {"txt": b"caption 1"}


def test_a_member_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 2, per_shard=None)
    with (
        ShardReader(path, open_index(path), max_member_bytes=8) as reader,
        pytest.raises(BadSampleError, match="at most 8 bytes, got 9 bytes"),
    ):
        reader.read(1)


def test_a_reader_that_was_copied_opens_its_own_descriptor(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 2, per_shard=None)
    with ShardReader(path, open_index(path)) as reader:
        reader.read(0)
        with copy.copy(reader) as other:
            other.read(1)
        assert reader.read(1) == members_of(1)


def test_an_interrupted_rewrite_leaves_no_old_index_beside_a_new_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, 2, per_shard=None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmclip_data.shards.write.write_index", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 3, per_shard=None)
    assert not index_path(path).exists()
    assert build_index(path).num_samples == 3
