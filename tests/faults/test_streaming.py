"""Streams: every cut and damaged shard is named, no shell runs unasked, and what is not promised is said."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds
from PIL import Image

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import MachineError, UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.build import Loader, build_loader
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.stream_loader import StreamLoader, refuse_unusable_stream
from mmclip_data.loading.streaming import StreamingConfig, samples_of
from mmclip_data.loading.strict_tar import StrictTar
from mmclip_data.shards.headers import TarDamage

IN_SHARD = 12
MEMBER_BYTES = 1024
"""A header and a payload of up to 512 bytes."""


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 9, 9)).save(out, "PNG")
    return out.getvalue()


def tar_bytes(shard: int, kind: int = tarfile.USTAR_FORMAT, folder: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for row in range(IN_SHARD):
            number = shard * IN_SHARD + row
            for extension, data in (("png", picture(number)), ("txt", f"caption {number}".encode())):
                info = tarfile.TarInfo(f"{folder}{number:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(4):
        (folder / f"{shard}.tar").write_bytes(tar_bytes(shard))
    return folder


def config_of(shards: Path | str | tuple[str, ...], **settings: Any) -> StreamingConfig:
    names = str(shards) if isinstance(shards, Path) else shards
    return StreamingConfig(shards=names, **{"samples": 4 * IN_SHARD, "shuffle_samples": 5, **settings})


def make_loader(source: StreamingConfig, layout: Layout | None = None, workers: int = 0, **settings: Any) -> Loader:
    config = DataConfig(source=source, workers=workers, **settings)
    tokenize = lambda captions: torch.tensor([[int(text.split()[1])] for text in captions])  # noqa: E731
    return build_loader(config, ImageSpec(size=(4, 4)), tokenize, layout or Layout(8), 0)


def take(loader: Loader, count: int, start: int = 0) -> list[ImageTextBatch]:
    batches = loader.batches(DataPosition(start))
    return [next(batches) for _ in range(count)]


def test_a_pass_over_sound_streams_hands_out_each_sample_once_and_counts_it(shards: Path):
    loader = make_loader(config_of(shards, shuffle_samples=1))
    batches = take(loader, 6)
    seen = Counter(int(number) for batch in batches for number in batch.tokens[:, 0])
    assert seen == Counter(range(4 * IN_SHARD))
    names = {name for batch in batches for name in batch.ids}
    assert "train/2.tar/0025" in names
    assert [batch.position.samples_consumed for batch in batches] == [8, 16, 24, 32, 40, 48]
    assert sum(row["samples"] for row in loader.summary() if isinstance(row["samples"], int)) == 4 * IN_SHARD
    assert all(torch.equal(batch.images[:, 0, 0, 0].long(), batch.tokens[:, 0]) for batch in batches)


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_and_workers_have_shards_of_their_own(shards: Path, workers: int):
    config = config_of(shards, shuffle_samples=1)
    loaders = [make_loader(config, Layout(8, rank, 2), workers) for rank in range(2)]
    seen = Counter(int(n) for loader in loaders for batch in take(loader, 6) for n in batch.tokens[:, 0])
    assert seen == Counter(range(4 * IN_SHARD))
    again = take(make_loader(config, Layout(8, 0, 2), workers), 3)
    assert [batch.ids for batch in again] == [batch.ids for batch in take(loaders[0], 3)]


def test_the_buffer_shuffles_and_the_same_layout_draws_the_same(shards: Path):
    one = [batch.ids for batch in take(make_loader(config_of(shards)), 6)]
    assert one == [batch.ids for batch in take(make_loader(config_of(shards)), 6)]
    assert list(one[0]) != sorted(one[0])


DAMAGES = {
    "cut inside a payload": lambda data: data[: 9 * MEMBER_BYTES + 600],
    "cut inside a header": lambda data: data[: 9 * MEMBER_BYTES + 100],
    "cut between members": lambda data: data[: 10 * MEMBER_BYTES],
    "cut before the end blocks": lambda data: data[: 2 * IN_SHARD * MEMBER_BYTES],
    "a header's checksum": lambda data: flipped(data, 10 * MEMBER_BYTES + 150),
    "a header's name": lambda data: flipped(data, 10 * MEMBER_BYTES + 2),
    "zeros for a header": lambda data: data[: 10 * MEMBER_BYTES] + bytes(512) + data[10 * MEMBER_BYTES + 512 :],
    "zeros for two members": lambda data: data[: 10 * MEMBER_BYTES] + bytes(2048) + data[10 * MEMBER_BYTES + 2048 :],
    "nothing at all": lambda data: b"",
    "a page of HTML": lambda data: b"<html><body>404</body></html>" * 100,
    "two tars joined by cat": lambda data: data + data,
}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_named_and_every_sample_before_it_is_kept(shards: Path, damage: str):
    """webdataset alone ends such a shard without a word in most of these cases."""
    tar = shards / "1.tar"
    tar.write_bytes(DAMAGES[damage](tar.read_bytes()))
    kept: list[dict[str, Any]] = []
    with pytest.raises(TarDamage, match=r"byte|not a tar|expected a tar"):
        kept.extend(samples_of(str(tar)))
    with pytest.raises(UserError, match=r"1\.tar.*on_damage = \"quarantine\""):
        take(make_loader(config_of(shards), captions=("txt",)), 12)
    loader = make_loader(config_of(shards, on_damage="quarantine", shuffle_samples=1), captions=("txt",))
    entries = [entry for batch in take(loader, 8) for entry in batch.replaced]
    assert any(entry.sample_id == "train/1.tar" and "what is behind it is lost" in entry.reason for entry in entries)
    rows = {str(row["shard"]): row for row in loader.summary()}
    assert rows[str(tar)]["damages"]


def test_members_before_a_damage_are_handed_out_whole(shards: Path):
    tar = shards / "1.tar"
    tar.write_bytes(DAMAGES["a header's checksum"](tar.read_bytes()))
    samples = samples_of(str(tar))
    assert [next(samples)["__key__"] for _ in range(5)] == ["0012", "0013", "0014", "0015", "0016"]
    with pytest.raises(TarDamage, match=f"byte {10 * MEMBER_BYTES}"):
        next(samples)
    alone = wds.WebDataset(str(tar), shardshuffle=False, empty_check=False)
    assert len(list(alone)) == 5  # and no error: what this test is for


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 100, 512, 10240, 1 << 20])
def test_strict_reading_passes_every_byte_of_a_sound_tar(kind: int, size: int):
    data = tar_bytes(0, kind, folder="" if kind == tarfile.USTAR_FORMAT else "a-long-folder-name/" * 12)
    stream = StrictTar(io.BytesIO(data))
    pieces = []
    while piece := stream.read(size):
        pieces.append(piece)
    stream.finish()
    assert b"".join(pieces) == data
    assert stream.members == 2 * IN_SHARD


def test_a_member_that_claims_too_much_is_refused_before_it_is_read():
    stream = StrictTar(io.BytesIO(tar_bytes(0)), max_member_bytes=20)
    with pytest.raises(TarDamage, match=r"claims \d+ bytes, at most 20 are read"):
        stream.finish()


def test_a_count_that_differs_from_the_index_is_a_damage(shards: Path):
    from mmclip_data.shards import build_index, write_index

    tar = shards / "0.tar"
    write_index(build_index(tar), Path(f"{tar}.mmidx"))
    assert len(list(samples_of(str(tar)))) == IN_SHARD
    short = io.BytesIO()
    with tarfile.open(fileobj=short, mode="w") as out:
        info = tarfile.TarInfo("0000.txt")
        info.size = 1
        out.addfile(info, io.BytesIO(b"x"))
    tar.write_bytes(short.getvalue())
    with pytest.raises(TarDamage, match="its index counts 12 samples, 1 came"):
        list(samples_of(str(tar)))


def test_compressed_tars_are_read_by_their_name_and_a_cut_one_is_named(tmp_path: Path):
    packed = gzip.compress(tar_bytes(0))
    (tmp_path / "0.tar.gz").write_bytes(packed)
    (tmp_path / "1.tar.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "2.tar").write_bytes(packed)
    assert len(list(samples_of(str(tmp_path / "0.tar.gz")))) == IN_SHARD
    with pytest.raises(TarDamage, match=r"byte"):
        list(samples_of(str(tmp_path / "1.tar.gz")))
    with pytest.raises(TarDamage, match="not a tar but gzip data"):  # what says tar is never unpacked
        list(samples_of(str(tmp_path / "2.tar")))
    assert config_of(tmp_path).names() == [str(tmp_path / f"{n}.tar.gz") for n in range(2)]


def test_a_pipe_runs_only_when_that_is_allowed(shards: Path, tmp_path: Path):
    canary = tmp_path / "ran"
    command = f"pipe:touch {canary}; cat {shards / '0.tar'}"
    with pytest.raises(UserError, match=r"would run a shell command.*data.source.allow_shell = true"):
        make_loader(config_of(command))
    assert not canary.exists()
    loader = make_loader(config_of(command, allow_shell=True, shuffle_samples=1))
    (batch,) = take(loader, 1)
    assert canary.exists()
    assert set(batch.tokens[:, 0].tolist()) <= set(range(IN_SHARD))


def test_a_pipe_that_hides_a_cut_is_caught_and_one_that_fails_stops_the_run(shards: Path):
    hides = f"pipe:head -c {10 * MEMBER_BYTES} {shards / '0.tar'} || true"
    with pytest.raises(UserError, match=r"cut between members"):
        take(make_loader(config_of(hides, allow_shell=True), captions=("txt",)), 2)
    with pytest.raises(MachineError, match=r"'false' of a pipe: shard ended with exit code 1"):
        take(make_loader(config_of("pipe:false", allow_shell=True), captions=("txt",)), 1)


def test_the_switch_of_webdataset_is_on_while_a_stream_is_read_and_as_before_afterwards(shards: Path):
    from webdataset import utils

    assert not utils.enforce_security
    samples = samples_of(str(shards / "0.tar"))
    next(samples)
    assert utils.enforce_security
    with pytest.raises(ValueError, match="cannot open pipe"):
        wds.gopen("pipe:true")
    samples.close()
    assert not utils.enforce_security


def test_bad_samples_are_left_out_and_named_with_those_that_follow(shards: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for row in range(16):
            data = b"no picture" if row == 3 else picture(row)
            for extension, content in (("png", data), ("txt", f"caption {row}".encode())):
                info = tarfile.TarInfo(f"{row:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (shards / "0.tar").write_bytes(out.getvalue())
    loader = make_loader(config_of(shards / "0.tar", shuffle_samples=1))
    first, second = take(loader, 2)
    assert first.tokens[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    (entry,) = first.replaced
    assert (entry.sample_id, entry.replaced_by) == ("train/0.tar/0003", "train/0.tar/0004")
    assert second.position == DataPosition(16)


def test_resume_is_refused_or_starts_at_the_front_in_another_order(shards: Path):
    with pytest.raises(UserError, match=r"--resume: a stream has no place.*on_resume = \"restart\""):
        take(make_loader(config_of(shards)), 1, start=16)
    restarted = take(make_loader(config_of(shards, on_resume="restart")), 1, start=16)
    assert restarted[0].position == DataPosition(24)
    assert restarted[0].ids != take(make_loader(config_of(shards)), 1)[0].ids


def test_what_is_not_promised_is_said(shards: Path):
    (line,) = make_loader(config_of(shards), workers=9).describe(100)
    assert "streaming 4 shards, captions from txt: the order depends on the number of ranks and workers" in line
    assert "--resume is refused" in line
    assert "4 loader processes a rank, for more would have no shard" in line


def test_more_ranks_than_shards_are_refused(shards: Path):
    with pytest.raises(UserError, match="4 shards for 8 ranks"):
        make_loader(config_of(shards), Layout(8, 0, 8))


def test_standard_input_is_read_once_and_its_end_is_an_error(shards: Path, monkeypatch: pytest.MonkeyPatch):
    with (shards / "0.tar").open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        batches = make_loader(config_of("-", shuffle_samples=1), workers=2, captions=("txt",)).batches(DataPosition(0))
        assert next(batches).tokens[:, 0].tolist() == list(range(8))
        with pytest.raises(UserError, match="the stream ended after 12 good samples"):
            next(batches)


@pytest.mark.parametrize("where", ["nowhere/{00..03}.tar", "empty"])
def test_a_wrong_path_is_an_error_before_anything_is_read(where: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"names no shard|nothing at|no \.tar in the folder"):
        refuse_unusable_stream(config_of(str(tmp_path / where)), None, 1)


def test_a_wrong_caption_field_says_what_is_there(shards: Path):
    refuse_unusable_stream(config_of(shards), None, 4)
    with pytest.raises(UserError, match=r"no caption in caption \(members: png, txt\).*data.captions"):
        refuse_unusable_stream(config_of(shards), ("caption",), 1)


def test_captions_in_json_are_found(tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for extension, content in (("jpg", picture(1)), ("json", json.dumps({"caption": "number 1"}).encode())):
            info = tarfile.TarInfo(f"0.{extension}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    loader = make_loader(config_of(tmp_path / "0.tar"))
    assert isinstance(loader, StreamLoader)
    assert loader.captions == ("json:caption",)
