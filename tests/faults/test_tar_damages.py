"""Damaged shards: what is kept is what was written, and what is not kept has a name or a place."""

import gzip
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from webdataset.compat import WebDataset

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig, picture_of
from mmclip_data.shards import ShardReader, build_index, index_path, open_index, write_index
from mmclip_data.testing.shard_faults import (
    Damage,
    bit_flips,
    lay_out,
    make_shard,
    overwrite,
    restate_size,
    structural_damages,
)

SHARD = make_shard()
DAMAGES = structural_damages(SHARD)
NAMES = [damage.name for damage in DAMAGES]
Samples = dict[str, dict[str, bytes]]


def read_all(tar: Path, index) -> tuple[Samples, dict[str, str]]:
    """Samples that are read, and messages of those that are not, by key."""
    kept, bad = {}, {}
    with ShardReader(tar, index) as reader:
        for sample in range(index.num_samples):
            try:
                kept[index.key(sample)] = reader.read(sample)
            except BadSampleError as error:
                bad[index.key(sample)] = str(error)
    return kept, bad


def indexed(tar: Path, raw: bytes) -> Path:
    """The shard as it was when it was whole, with its index, at `tar`."""
    tar.write_bytes(raw)
    write_index(build_index(tar), index_path(tar))
    return tar


def test_the_factory_damages_in_more_than_sixty_different_ways():
    assert len(DAMAGES) == len(set(NAMES)) > 60
    assert len(SHARD.raw) < 40_000
    assert [damage.raw for damage in structural_damages(make_shard())] == [damage.raw for damage in DAMAGES]
    assert all(damage.raw != SHARD.raw for damage in DAMAGES)


@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_an_index_is_refused_and_the_way_out_named(tmp_path: Path, damage: Damage):
    tar = tmp_path / "a.tar"
    tar.write_bytes(damage.raw)
    with pytest.raises(UserError, match=r"a\.tar: .*byte.*mmclip shards index --salvage .*a\.tar"):
        build_index(tar)


@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_salvage_keeps_every_whole_sample_and_accounts_for_the_others(tmp_path: Path, damage: Damage):
    tar = tmp_path / "a.tar"
    tar.write_bytes(damage.raw)
    index = build_index(tar, salvage=True)
    kept, bad = read_all(tar, index)
    assert bad == {}
    assert {key: kept[key] for key in kept if key != "other"}.items() <= SHARD.samples.items()
    assert damage.intact <= kept.keys()
    assert index.salvage is not None
    lost = SHARD.samples.keys() - kept.keys()
    named = dict(index.salvage.quarantined)
    nameless = lost - named.keys()
    for member in SHARD.members:
        if member.key in nameless:
            assert any(start < member.data and member.header < end for start, end in damage.ranges)
    assert not nameless or index.salvage.num_ranges
    assert len(kept.keys() - {"other"}) + len(lost & named.keys()) + len(nameless) == len(SHARD.samples)
    assert all(named.values())
    write_index(index, index_path(tar))
    assert open_index(tar).salvage == index.salvage


@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_an_index_from_before_the_damage_reads_what_stands_in_its_place_and_names_the_rest(
    tmp_path: Path, damage: Damage
):
    tar = indexed(tmp_path / "a.tar", SHARD.raw)
    tar.write_bytes(damage.raw)
    if len(damage.raw) != len(SHARD.raw):
        with pytest.raises(UserError, match='after it was indexed; .*on_damage = "quarantine"'):
            open_index(tar)
    kept, bad = read_all(tar, open_index(tar, on_damage="quarantine"))
    assert kept.items() <= SHARD.samples.items()
    assert kept.keys() | bad.keys() == SHARD.samples.keys()
    assert len(kept) + len(bad) == len(SHARD.samples)
    assert all(repr(key) in message and "a.tar" in message for key, message in bad.items())
    for key, members in SHARD.samples.items():
        spans = [(member.data, member.payload) for member in SHARD.members if member.key == key]
        assert (key in kept) == all(damage.raw[start : start + len(payload)] == payload for start, payload in spans)
        assert members


def test_training_reads_a_damaged_shard_by_its_index_only_where_it_was_told_to(tmp_path: Path):
    tar = indexed(tmp_path / "a.tar", SHARD.raw)
    cut = SHARD.members[12].header
    tar.write_bytes(SHARD.raw[:cut])
    with pytest.raises(UserError, match="cut short after it was indexed"):
        IndexedTarsConfig(shards=str(tar)).build(["txt"])
    source = IndexedTarsConfig(shards=str(tar), on_damage="quarantine").build(["txt"])
    assert source.shard_sizes.tolist() == [8]
    assert [source.read(0, row)["txt"] for row in range(4)] == [s["txt"] for s in list(SHARD.samples.values())[:4]]
    for row in range(4, 8):
        with pytest.raises(BadSampleError, match=f"key '{row:06d}'"):
            source.read(0, row)


def test_400_of_400_flipped_bits_are_noticed(tmp_path: Path):
    tar = indexed(tmp_path / "a.tar", SHARD.raw)
    index = open_index(tar)
    noticed = 0
    for key, raw in bit_flips(SHARD, 400):
        tar.write_bytes(raw)
        kept, bad = read_all(tar, index)
        assert list(bad) == [key]
        assert "expected checksum" in bad[key]
        assert kept == {other: members for other, members in SHARD.samples.items() if other != key}
        noticed += 1
    assert noticed == 400


@pytest.mark.parametrize("edge", range(0, len(SHARD.raw), 512))
def test_a_shard_cut_at_any_block_keeps_what_stands_before(tmp_path: Path, edge: int):
    tar = indexed(tmp_path / "a.tar", SHARD.raw)
    tar.write_bytes(SHARD.raw[:edge])
    kept, bad = read_all(tar, open_index(tar, on_damage="quarantine"))
    assert kept.keys() >= SHARD.untouched([(edge, len(SHARD.raw))])
    assert len(kept) + len(bad) == 8
    if edge <= SHARD.members[-1].end:
        with pytest.raises(UserError, match="empty file" if edge == 0 else f"at byte|at {edge}"):
            build_index(tar)


@pytest.mark.slow
def test_what_webdataset_loses_in_silence(tmp_path: Path, record_property):
    """Why there is an index: its reader takes a bad header for the end of the archive, and calls no handler."""
    silent = lost = calls = 0
    for number, damage in enumerate(DAMAGES):
        tar = tmp_path / f"{number}.tar"
        tar.write_bytes(damage.raw)
        called: list[str] = []

        def note(error: Exception, called: list[str] = called) -> bool:
            called.append(str(error))
            return True

        samples = WebDataset(str(tar), shardshuffle=False, handler=note, empty_check=False)
        members = {sample["__key__"]: {name: sample.get(name) for name in ("jpg", "json", "txt")} for sample in samples}
        read = {key for key, found in members.items() if found == SHARD.samples.get(key)}
        calls += bool(called)
        silent += not called and not damage.intact <= read
        lost += 0 if called else len(damage.intact - read)
    record_property("silent_damages", silent)
    record_property("silently_lost_whole_samples", lost)
    print(
        f"webdataset: {silent} of {len(DAMAGES)} damages lose whole samples in silence, {lost} in all; {calls} reported"
    )
    assert silent > len(DAMAGES) / 2


NOT_SHARDS = {
    "nothing": (b"", "empty file"),
    "zeros only": (bytes(10240), "no sample in it"),
    "error page": (b"<!DOCTYPE html><title>503</title>" * 100, "an HTML or XML page"),
    "error as JSON": (b'{"message": "denied"}' * 100, "JSON text"),
    "gzipped tar": (gzip.compress(SHARD.raw), "gzip data"),
    "noise": (b"\x07" * 5000, "cannot be read as a tar"),
}


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("name", NOT_SHARDS)
def test_a_file_that_is_no_tar_is_told_from_a_damaged_one(tmp_path: Path, name: str, salvage: bool):
    raw, message = NOT_SHARDS[name]
    (tmp_path / "a.tar").write_bytes(raw)
    if salvage and name == "noise":
        message = "no sample in it"
    with pytest.raises(UserError, match=message):
        build_index(tmp_path / "a.tar", salvage)


BOUNDED = """
import resource, sys
from pathlib import Path
from mmclip.errors import UserError
from mmclip_data.shards import build_index
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for salvage in (False, True):
    try:
        build_index(Path(sys.argv[1]), salvage)
    except UserError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["gzip bomb", "declared 8 GiB", "long name of 200 MiB"])
def test_bombs_are_refused_without_the_memory(tmp_path: Path, name: str):
    tar = tmp_path / "a.tar"
    if name == "gzip bomb":
        with gzip.open(tar, "wb", compresslevel=1) as file:
            for _ in range(100):
                file.write(bytes(1 << 20))
    elif name == "declared 8 GiB":
        tar.write_bytes(restate_size(SHARD.raw, SHARD.members[0], b"\x80" + (8 << 30).to_bytes(11, "big")))
    else:
        header = bytearray(SHARD.raw[:512])
        header[156:157] = b"L"
        raw = restate_size(bytes(header) + SHARD.raw, SHARD.members[0], b"\x80" + (200 << 20).to_bytes(11, "big"))
        tar.write_bytes(raw)
        with tar.open("ab") as file:
            file.truncate(300 << 20)
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(tar)], capture_output=True, text=True, check=True)
    expected = {
        "gzip bomb": "gzip data",
        "declared 8 GiB": "claims 8589934592 bytes",
        "long name of 200 MiB": "at most",
    }
    assert expected[name] in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 50


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_a_cut_picture_is_a_bad_sample(percent: int):
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    data = SHARD.members[0].payload
    with pytest.raises(BadSampleError):
        decode_image(data[: len(data) * percent // 100])


WRONG_BYTES = {
    "empty": b"",
    "error page": b"<html>gone</html>" * 9,
    "json": b'{"error": 404}',
    "gif": b"GIF89a" + bytes(60),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.7" + bytes(50),
    "bmp": b"BM" + bytes(60),
    "tiff": b"II*\0" + bytes(60),
    "zeros": bytes(100),
    "jpeg magic": b"\xff\xd8\xff",
    "png magic": b"\x89PNG\r\n\x1a\n",
    "webp magic": b"RIFF\x20\0\0\0WEBPVP8 ",
}


@pytest.mark.parametrize("name", WRONG_BYTES)
def test_bytes_that_are_no_picture_are_seen_by_the_index_and_refused_by_the_decoder(tmp_path: Path, name: str):
    tar = tmp_path / "a.tar"
    tar.write_bytes(lay_out([("k", "jpg", WRONG_BYTES[name]), ("k", "txt", b"x")]).raw)
    index = build_index(tar)
    assert index.columns["sample_width"].tolist() == [0]
    assert bool(index.mislabelled) == (name != "jpeg magic")
    with pytest.raises(BadSampleError):
        decode_image(read_all(tar, index)[0]["k"]["jpg"])


def test_samples_without_picture_or_caption_are_counted_and_named(tmp_path: Path):
    whole = SHARD.samples["000000"]
    shard = lay_out(
        [*(("a", name, data) for name, data in whole.items()), ("b", "txt", b"x"), ("c", "jpg", whole["jpg"])]
    )
    tar = indexed(tmp_path / "a.tar", shard.raw)
    index = open_index(tar)
    assert [index.key(int(sample)) for sample in index.samples_without(["jpg", "png"])] == ["b"]
    assert [index.key(int(sample)) for sample in index.samples_without(["txt"])] == ["c"]
    source = IndexedTars("train", [tar], ["txt"])
    with pytest.raises(BadSampleError, match="no picture"):
        picture_of(source.read(0, 1))


def test_equal_keys_of_two_shards_are_two_samples(tmp_path: Path):
    tars = [indexed(tmp_path / name, SHARD.raw) for name in ("a.tar", "b.tar")]
    source = IndexedTars("train", tars, ["txt"])
    assert len({source.sample_id(shard, row) for shard in range(2) for row in range(8)}) == 16


def test_a_key_with_an_extension_twice_is_an_error_and_a_loss_of_that_sample_alone(tmp_path: Path):
    contents = [(member.key, member.extension, member.payload) for member in SHARD.members]
    tar = tmp_path / "a.tar"
    tar.write_bytes(lay_out([*contents, ("000002", "txt", b"again")]).raw)
    with pytest.raises(UserError, match="key '000002' has two members 'txt'"):
        build_index(tar)
    index = build_index(tar, salvage=True)
    assert read_all(tar, index)[0] == {key: sample for key, sample in SHARD.samples.items() if key != "000002"}
    assert index.salvage is not None
    assert index.salvage.quarantined == (("000002", "two members with one extension"),)


def test_members_far_apart_are_one_sample_also_beside_a_damage(tmp_path: Path):
    contents = sorted((member.extension, member.key, member.payload) for member in SHARD.members)
    shard = lay_out([(key, extension, payload) for extension, key, payload in contents])
    tar = tmp_path / "a.tar"
    tar.write_bytes(shard.raw)
    assert read_all(tar, build_index(tar))[0] == SHARD.samples
    tar.write_bytes(overwrite(shard.raw, shard.members[20].header, bytes(512)))
    index = build_index(tar, salvage=True)
    lost = shard.members[20].key
    assert read_all(tar, index)[0] == {key: sample for key, sample in SHARD.samples.items() if key != lost}
    assert index.salvage is not None
    assert [key for key, _ in index.salvage.quarantined] == [lost]


def test_a_nested_tar_is_a_payload_and_no_treasure(tmp_path: Path):
    """A header behind a damage is searched for; the headers inside a sound member are not its fault."""
    contents = [(member.key, member.extension, member.payload) for member in SHARD.members]
    shard = lay_out([*contents[:6], ("nested", "tar", SHARD.raw), *contents[6:]])
    tar = tmp_path / "a.tar"
    tar.write_bytes(overwrite(shard.raw, shard.members[7].header, bytes(512)))
    kept, _ = read_all(tar, build_index(tar, salvage=True))
    assert kept.keys() >= SHARD.samples.keys() - {shard.members[7].key}
    assert {key: kept[key] for key in kept if key != "nested"}.items() <= SHARD.samples.items()


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_whose_header_is_lost_gives_no_sample_a_wrong_key(tmp_path: Path, tar_format: int):
    tar = tmp_path / "a.tar"
    keys = [f"{'long' * 30}/{'name' * 10}{number}" for number in range(6)]
    with tarfile.open(tar, "w", format=tar_format) as archive:
        for key in keys:
            for extension in ("jpg", "txt"):
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = 700
                archive.addfile(header, io.BytesIO(bytes(700)))
    assert build_index(tar).num_samples == 6
    raw = tar.read_bytes()
    with tarfile.open(tar) as archive:
        starts = [member.offset for member in archive]
    for start in starts:
        tar.write_bytes(overwrite(raw, start, bytes(512)))
        with pytest.raises(UserError, match="--salvage"):
            build_index(tar)
        kept, _ = read_all(tar, build_index(tar, salvage=True))
        assert kept.keys() == set(keys) - {keys[starts.index(start) // 2]}
