"""Many shards at once: the same files for any number of processes, nothing twice, and no shard spoils another's index."""

import os
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.shards import build_index, index_path, index_shards, open_index
from mmclip_data.testing.shard_faults import lay_out, make_shard, overwrite
from mmclip_launch import shards as verb

WHOLE = make_shard(4)
BROKEN = overwrite(WHOLE.raw, WHOLE.members[4].header, bytes(512))


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.tar" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(make_shard(3, seed=number).raw)
    return paths


def indexes(tars: list[Path]) -> list[bytes]:
    return [index_path(tar).read_bytes() for tar in tars]


def test_processes_write_what_one_process_writes_and_report_in_order(tars: list[Path]) -> None:
    assert [shard.tar for shard in index_shards(tars)] == tars
    alone = indexes(tars)
    done = list(index_shards(tars, workers=2, force=True))
    assert [(shard.tar, shard.kept, shard.error) for shard in done] == [(tar, False, None) for tar in tars]
    assert indexes(tars) == alone
    assert [shard.index.num_samples for shard in done if shard.index] == [3] * 5


def test_a_second_run_keeps_what_is_complete_and_makes_what_is_not(tars: list[Path]) -> None:
    list(index_shards(tars[:4]))
    whole = indexes(tars[:4])
    damaged = bytearray(whole[0])
    damaged[-1] ^= 1
    index_path(tars[0]).write_bytes(damaged)
    index_path(tars[1]).write_bytes(whole[1][:-8])
    tars[2].write_bytes(make_shard(2).raw)
    before = index_path(tars[2]).stat().st_mtime_ns - 10**9
    os.utime(tars[2], ns=(before, before))  # older than its index, but of another size
    done = list(index_shards(tars))
    assert [shard.kept for shard in done] == [False, False, False, True, False]
    assert indexes(tars)[:2] == whole[:2]
    assert open_index(tars[2]).num_samples == 2
    assert all(shard.kept for shard in index_shards(tars))


def test_an_index_older_than_its_tar_is_made_again(tars: list[Path]) -> None:
    list(index_shards(tars[:1]))
    old = index_path(tars[0]).stat().st_mtime_ns
    raw = tars[0].read_bytes()
    member = make_shard(3, seed=0).members[0]
    tars[0].write_bytes(overwrite(raw, member.data, b"changed"))
    os.utime(tars[0], ns=(old + 1, old + 1))
    (done,) = index_shards(tars[:1])
    assert not done.kept
    assert open_index(tars[0]).fingerprint == build_index(tars[0]).fingerprint


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_its_shards_own(tars: list[Path], workers: int) -> None:
    tars[1].write_bytes(BROKEN)
    tars[3].unlink()
    done = list(index_shards(tars, workers=workers))
    assert [shard.error is None for shard in done] == [True, False, True, False, True]
    assert "1.tar: unreadable header at byte" in str(done[1].error)
    assert "3.tar: No such file" in str(done[3].error)
    assert not index_path(tars[1]).exists()


def test_an_index_from_before_the_damage_is_not_replaced_by_what_is_left(tars: list[Path]) -> None:
    tar = tars[0]
    list(index_shards([tar]))
    whole = indexes([tar])
    tar.write_bytes(tar.read_bytes()[:4000])
    (done,) = index_shards([tar], salvage=True)
    assert 'on_damage = "quarantine" reads every intact sample' in str(done.error)
    assert indexes([tar]) == whole
    (done,) = index_shards([tar], salvage=True, force=True)
    assert done.index is not None
    assert done.index.salvage is not None
    assert open_index(tar).num_samples < 3
    (again,) = index_shards([tar])
    assert again.kept


def test_the_command_indexes_everything_that_can_be_and_names_the_rest(
    tars: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tars[2].write_bytes(BROKEN)
    folder = str(tars[0].parent)
    with pytest.raises(UserError, match=r"1 of 5 shards have no index:\n.*2\.tar: unreadable header"):
        verb.main(["index", folder, "--workers", "1"])
    assert "12 samples in all" in capsys.readouterr().err
    verb.main(["index", folder, "--workers", "2", "--salvage"])
    told = capsys.readouterr().err
    assert "4 of 5 shards had their index" in told
    assert "15 samples in all" in told
    lost = WHOLE.members[4].key
    assert f"  {lost}: " in told
    assert f"bytes {WHOLE.members[4].header} to {WHOLE.members[5].header}" in told
    first = indexes(tars)
    verb.main(["index", folder, "--workers", "1", "--salvage", "--force"])
    assert indexes(tars) == first


def test_the_command_says_what_is_odd_about_a_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_shard(1).samples["000000"]
    contents = [("a", "jpg", whole["jpg"]), ("a", "txt", b"x"), ("b", "png", whole["jpg"]), ("c", "txt", b"y")]
    (tmp_path / "a.tar").write_bytes(lay_out(contents).raw)
    verb.main(["index", str(tmp_path / "a.tar")])
    told = capsys.readouterr().err
    assert "1 png holds jpeg" in told
    assert "1 without a picture" in told
    assert "1 without a caption" in told
