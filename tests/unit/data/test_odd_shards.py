"""What is found where shards should be, and how it is told."""

import io
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.census import refuse_unusable
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.pipelines.dedup import DedupConfig, make_dedup
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.pipelines.repack import RepackConfig, make_repack
from mmclip_data.pipelines.stats import StatsConfig, shard_stats
from mmclip_data.shards import ShardWriter, build_index, index_path, index_shards, open_index
from mmclip_data.shards.names import distinct_names
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.cli import dispatch, run_verb

SHARD = make_shard()
JPEG = SHARD.samples["000000"]["jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (JPEG, "not a tar but a picture; give the folder it is in to `mmclip shards make folder`"),
        (b"PAR1" + bytes(900), "not a tar but a Parquet file; give it to `mmclip shards make table`"),
        (b"q" * 2000, r"unreadable header at byte 0 \(a number in it is none\)"),
    ],
)
def test_other_files_in_the_place_of_a_shard_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_index(tmp_path / "0.tar")


def test_a_cut_within_the_padding_loses_no_negative_number_of_bytes(tmp_path: Path) -> None:
    last = SHARD.members[-1]
    cut = last.data + len(last.payload)
    assert cut < last.end
    (tmp_path / "0.tar").write_bytes(SHARD.raw[:cut])
    index = build_index(tmp_path / "0.tar", salvage=True)
    assert index.num_samples == len(SHARD.samples)
    assert index.salvage is not None
    assert index.salvage.lost_bytes == 0
    assert [(start, end) for start, end, _ in index.salvage.ranges] == [(cut, cut)]


def test_shards_without_an_index_are_told_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, "{}.tar", samples_per_shard=1) as writer:
            for number in range(2):
                writer.add(f"{number}", {"jpg": JPEG, "txt": b"x"})
    for path in (index_path(tmp_path / "a/0.tar"), index_path(tmp_path / "a/1.tar"), index_path(tmp_path / "b/0.tar")):
        path.unlink()
    both = f"{tmp_path}/a::{tmp_path}/b"
    with pytest.raises(
        UserError, match=rf"3 of 4 shards have no index.*`mmclip shards index {tmp_path}/a {tmp_path}/b`"
    ):
        open_source(IndexedTarsConfig(shards=both), None)
    with pytest.raises(UserError, match=rf"shards index --index-folder {tmp_path}/i "):
        open_source(IndexedTarsConfig(shards=both, index_folder=str(tmp_path / "i")), None)
    with pytest.raises(UserError, match=rf"shard {tmp_path}/b/0\.tar has no index at"):
        open_source(IndexedTarsConfig(shards=str(tmp_path / "b")), None)


def test_a_bad_picture_is_told_in_the_same_words_each_time() -> None:
    said = set()
    for _ in range(3):
        with pytest.raises(BadSampleError) as caught:
            decode_image(JPEG[:2] + b"\xff" + bytes(40))
        said.add(str(caught.value))
    assert len(said) == 1, "or a quarantine and a job's dropped.jsonl would differ from run to run"


def test_check_shows_paths_that_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ("a folder with a rather long name " * 3).strip()
    with ShardWriter(folder, "0.tar", samples_per_shard=None) as writer:
        writer.add("good", {"jpg": JPEG, "txt": b"x"})
        writer.add("page", {"jpg": b"<html>", "txt": b"x"})
    with pytest.raises(SystemExit) as stop:
        run_verb(dispatch, ["shards", "check", str(folder), "--decode", "--workers", "1"])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert f"not a JPEG, PNG or WebP picture, for example {folder}/0.tar page: holds unknown\n" in out
    assert "cannot be decoded" not in out, "it is counted once"


def test_stats_tell_how_many_samples_have_each_measure(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "0.tar", samples_per_shard=None) as writer:
        for number in range(5):
            writer.add(f"{number}", {"jpg": JPEG} if number else {"jpg": b"no picture", "txt": b"a caption"})
    lines = shard_stats(StatsConfig(shards=(str(tmp_path),))).lines()
    counts = {line.partition(" (")[0]: line[22:32].strip() for line in lines[2:]}
    assert counts == {"short side": "4", "long side": "4", "aspect": "4", "picture": "5", "caption": "1"}


def test_what_a_shard_had_lost_before_is_told_by_jobs_and_runs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tars = [tmp_path / "in" / f"{number}.tar" for number in range(2)]
    tars[0].write_bytes(SHARD.raw[: SHARD.members[-1].data + 1])
    tars[1].write_bytes(make_shard(4, seed=3).raw)
    assert [shard.error for shard in index_shards(tars, salvage=True)] == [None, None]
    told = "1 of 2 shards were damaged before they were indexed: 1 samples known to be incomplete"
    config = FilterConfig(
        shards=(str(tmp_path / "in"),), output=tmp_path / "out", where="width > 1", workers=1, keys="number"
    )
    assert [note for note in make_filter(config).notes if note.startswith(f"{told} (0.tar/000007)")]
    opened = open_source(IndexedTarsConfig(shards=str(tmp_path / "in")), None)
    assert [line for line in refuse_unusable(opened, 0.01) if line.startswith(f"{told} ({tars[0]}/000007)")]
    opened = open_source(IndexedTarsConfig(shards=str(tars[1])), None)
    assert refuse_unusable(opened, 0.01) == []


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/0.tar", "x/1.tar"], ["0.tar", "1.tar"]),
        (["a/0.tar", "b/0.tar", "b/1.tar"], ["a/0.tar", "b/0.tar", "1.tar"]),
        (["/d/a/train/0.tar", "/d/b/train/0.tar"], ["a/train/0.tar", "b/train/0.tar"]),
        (["0.tar", "a/0.tar"], ["0.tar", "a/0.tar"]),
        (["s3://x/0.tar", "s3://y/0.tar"], ["x/0.tar", "y/0.tar"]),
        (["same", "same"], ["same", "same"]),
    ],
)
def test_shards_of_one_name_are_told_apart_by_their_folders(paths: list[str], names: list[str]) -> None:
    assert distinct_names(paths) == names


def test_samples_of_shards_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name / "train", "0.tar", samples_per_shard=None) as writer:
            writer.add("s0", {"jpg": JPEG, "txt": name.encode()})
    parts = f"{tmp_path}/a/train::{tmp_path}/b/train"
    source = open_source(IndexedTarsConfig(shards=parts), None).source
    assert [source.sample_id(shard, 0) for shard in (0, 1)] == ["train/a/train/0.tar/s0", "train/b/train/0.tar/s0"]
    assert source.read(1, 0)["__id__"] == "train/b/train/0.tar/s0"
    config = DedupConfig(shards=(parts,), output=tmp_path / "out", workers=1, keys="number")
    assert make_dedup(config).dropped.names == {
        "picture has the same bytes": ["b/train/0.tar/s0 (of a/train/0.tar/s0)"]
    }


def test_a_url_to_write_to_does_not_become_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "in", "0.tar", samples_per_shard=None) as writer:
        writer.add("s0", {"jpg": JPEG, "txt": b"x"})
    (tmp_path / "pictures").mkdir()
    for end in (".jpg", ".txt"):
        (tmp_path / "pictures" / f"a{end}").write_bytes(JPEG if end == ".jpg" else b"x")
    before = sorted(tmp_path.iterdir())
    for words in (
        ("repack", "in", "--output", "s3://bucket/out", "--workers", "1"),
        ("make", "folder", "--source", "pictures", "--output", "s3://bucket/out", "--workers", "1"),
        ("index", "in", "--index-folder", "s3://bucket/out"),
    ):
        assert run_verb(dispatch, ["shards", *words]) == 2
        assert "=s3://bucket/out: expected a folder of this machine" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_stats_of_shards_on_a_store_read_their_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ShardWriter(tmp_path / "in", "{}.tar", samples_per_shard=2) as writer:
        for number in range(5):
            writer.add(f"{number}", {"jpg": JPEG, "txt": b"x" * (number + 1)})
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "in").iterdir():
        memory.pipe_file(f"/stats/{path.name}", path.read_bytes())
    here, there = (shard_stats(StatsConfig(shards=(place,))) for place in (str(tmp_path / "in"), "memory://stats"))
    assert there.facts() == here.facts()
    memory.rm("/stats", recursive=True)


def test_repack_enlarges_no_picture_that_gets_another_format(tmp_path: Path) -> None:
    sizes = [Image.open(io.BytesIO(members["jpg"])).size for members in SHARD.samples.values()]
    with ShardWriter(tmp_path / "in", "0.tar", samples_per_shard=None) as writer:
        for key, members in SHARD.samples.items():
            writer.add(key, members)
    places = {"shards": (str(tmp_path / "in"),), "workers": 1}
    make_repack(RepackConfig(**places, output=tmp_path / "large", short_side=500, format="png"))
    make_repack(RepackConfig(**places, output=tmp_path / "small", short_side=8, format="png"))
    for name, expected in (("large", sizes), ("small", [(8, 8)] * len(sizes))):
        index = open_index(tmp_path / name / "00000.tar")
        assert (
            list(zip(*(index.columns[f"sample_{side}"].tolist() for side in ("width", "height")), strict=True))
            == expected
        )


def test_an_empty_shard_and_dotted_names_are_told_with_their_mending(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(10240))
    with pytest.raises(UserError, match=r"no sample in it; 0 members .*leave this shard out \(a folder .*remove it\)"):
        build_index(tmp_path / "0.tar")
    with ShardWriter(tmp_path / "dots", "0.tar", samples_per_shard=None) as writer:
        writer.add("cat", {"v1.jpg": JPEG, "v1.txt": b"a cat"})
    with pytest.raises(UserError, match=r"holds no picture.*the rest of NAME\.v1\.jpg is its extension: rename"):
        open_source(IndexedTarsConfig(shards=str(tmp_path / "dots")), None)
