"""Index files are mapped when they are used: nothing is copied, few are open, and a changed file is noticed."""

import copy
import os
import subprocess
import sys
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from mmclip.errors import UserError
from mmclip_data.shards import ShardIndex, ShardReader, build_index, index_path, open_index, write_index
from mmclip_data.shards.columns import COLUMNS, FACT_COLUMNS, MEMBER_COLUMNS
from mmclip_data.shards.open_files import OpenFiles
from mmclip_data.testing.shard_faults import make_shard


def write_shard(path: Path, samples: int) -> Path:
    """A shard of this many samples with its index."""
    path.write_bytes(make_shard(samples).raw)
    write_index(build_index(path), index_path(path))
    return path


def test_opening_maps_nothing_and_reading_a_sample_maps_without_copies(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "a.tar", 5)
    index = open_index(tar)
    assert (index.num_samples, index.num_members, len(index.fingerprint)) == (5, 15, 32)
    assert mapped_files(index_path(tar)) == 0
    index.members(3)
    assert mapped_files(index_path(tar)) == 1
    assert all(
        not column.flags.owndata and not column.flags.writeable for column in (index.columns[name] for name in COLUMNS)
    )
    other = copy.copy(index.columns)
    assert ForkingPickler.dumps(index).nbytes < 5000
    other.release()
    del index
    assert other["member_offset"].tolist() == build_index(tar).columns["member_offset"].tolist()


def mapped_files(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_an_index_that_was_replaced_while_it_was_in_use_is_an_error(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "a.tar", 5)
    index = open_index(tar)
    write_shard(tar, 6)
    with pytest.raises(UserError, match="replaced while it was in use"):
        index.members(0)


def test_only_a_few_indexes_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmclip_data.shards.index.MAPPED", OpenFiles(3))
    tars = [write_shard(tmp_path / f"{number}.tar", number + 1) for number in range(9)]
    indexes = [open_index(tar) for tar in tars]
    for _ in range(2):
        for number, index in enumerate(indexes):
            assert index.key(number) == f"{number:06d}"
            assert mapped_files(tmp_path) <= 3


def open_tars(folder: Path) -> int:
    links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return sum(link.startswith(str(folder)) and link.endswith(".tar") for link in links)


def test_only_a_few_tars_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run reads thousands of shards, and a process may open a thousand files."""
    monkeypatch.setattr("mmclip_data.shards.read.OPENED", OpenFiles(3))
    tars = [write_shard(tmp_path / f"{number}.tar", 2) for number in range(9)]
    readers = [ShardReader(tar, open_index(tar)) for tar in tars]
    expected = make_shard(2).samples["000001"]
    for _ in range(2):
        for reader in readers:
            assert reader.read(1) == expected
            assert open_tars(tmp_path) <= 3
    for reader in readers:
        reader.close()
    assert open_tars(tmp_path) == 0


def test_a_tar_that_is_released_during_a_read_stays_open_for_that_read(tmp_path: Path) -> None:
    """Another thread may open the file that is one too many at any moment."""
    tar = write_shard(tmp_path / "a.tar", 8)
    reader, index = ShardReader(tar, open_index(tar)), open_index(tar)
    samples, stop, failures = make_shard(8).samples, threading.Event(), []

    def read() -> None:
        for _ in range(60):
            for row in range(8):
                if reader.read(row) != samples[index.key(row)]:
                    failures.append(row)

    def release() -> None:
        while not stop.is_set():
            reader.release()

    readers = [threading.Thread(target=read) for _ in range(3)]
    releaser = threading.Thread(target=release)
    for thread in (*readers, releaser):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    releaser.join()
    assert failures == []


MILLION = """
import sys
from pathlib import Path
from mmclip_data.shards import load_index
def rss():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0])  # without pages that are the file's own, which the kernel may drop
def read():
    index = load_index(Path(sys.argv[1]))
    return index, index.fingerprint, index.key(999_999), index.members(999_999)
load_index(Path(sys.argv[2])).members(0)
before = rss()
index, *_ = read()
print(rss() - before, index.num_samples)
"""


@pytest.mark.slow
def test_an_index_of_a_million_samples_is_opened_in_a_megabyte(tmp_path: Path) -> None:
    small = write_shard(tmp_path / "a.tar", 2)
    count = 1_000_000
    rows = np.arange(3 * count, dtype=np.uint64)
    columns = {name: rows.astype(dtype) for name, dtype in MEMBER_COLUMNS.items()}
    columns |= {"member_sample": (rows // 3).astype(np.uint32), "member_extension": (rows % 3).astype(np.uint16)}
    columns |= {"sample_first_member": rows[: count + 1] * 3, "key_offset": rows[: count + 1] * 9}
    columns |= {"key_bytes": np.full(9 * count, ord("k"), np.uint8)}
    columns |= {name: rows[:count].astype(dtype) for name, dtype in FACT_COLUMNS.items()}
    index = ShardIndex(1 << 40, count, 3 * count, ("jpg", "json", "txt"), columns)
    write_index(index, tmp_path / "big.tar.mmidx")
    assert (tmp_path / "big.tar.mmidx").stat().st_size > 100_000_000
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path / "big.tar.mmidx"), str(index_path(small))],
        capture_output=True,
        text=True,
        check=True,
    )
    kilobytes, samples = map(int, done.stdout.split())
    assert samples == count
    assert kilobytes < 1024
