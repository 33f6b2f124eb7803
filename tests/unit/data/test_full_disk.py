"""A disk that takes no more: the error names the file, and no half file stays behind to fill the disk further."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmclip_data.pipelines.job.journal import Journal
from mmclip_data.pipelines.job.outcome import Dropped
from mmclip_data.shards import ShardWriter, index_shards
from mmclip_data.shards.atomic import atomic_file, discard
from mmclip_data.testing.shard_faults import make_shard


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to make a file larger, as a full disk does; Python ignores the signal that goes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(folder: Path, sizes: list[int], per_shard: int) -> None:
    with ShardWriter(folder, "{}.tar", samples_per_shard=per_shard) as writer:
        for number, size in enumerate(sizes):
            writer.add(f"{number}", {"jpg": bytes(size)})


def test_a_shard_in_progress_is_named_and_gone(tmp_path: Path) -> None:
    with files_of_at_most(300_000), pytest.raises(OSError, match="too large") as caught:
        fill(tmp_path, [30_000] * 4 + [200_000] * 6, per_shard=4)
    assert caught.value.filename == str(tmp_path / "1.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"0.tar", "0.tar.mmidx"}


def test_a_shard_that_fits_but_for_its_end_is_gone_too(tmp_path: Path) -> None:
    with files_of_at_most(100_000), pytest.raises(OSError, match="too large"):
        fill(tmp_path, [99_000], per_shard=10)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_named_and_gone(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    with files_of_at_most(1000), pytest.raises(OSError, match="too large") as caught, atomic_file(path) as handle:
        handle.write(bytes(5000))
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path, {"job": "x"})
    journal.resume()
    with files_of_at_most(1000), pytest.raises(OSError, match="too large") as caught:
        journal.add_shard({"shard": "0.tar"}, [Dropped("a" * 3000, "reason")])
    assert caught.value.filename == str(tmp_path / "dropped.jsonl")
    journal.close()


def test_an_index_that_cannot_be_written_ends_the_command_and_not_the_shard(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    tar.write_bytes(make_shard(30).raw)
    with files_of_at_most(500), pytest.raises(OSError, match="too large") as caught:
        list(index_shards([tar]))
    assert caught.value.filename == str(tmp_path / "0.tar.mmidx")
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]


def test_what_is_thrown_away_need_not_be_flushed(tmp_path: Path) -> None:
    handle = (tmp_path / "x").open("wb")
    handle.write(bytes(2000))
    with files_of_at_most(100):
        discard(handle, tmp_path / "x")
    assert handle.closed
    assert not (tmp_path / "x").exists()
