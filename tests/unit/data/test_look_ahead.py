"""What is fetched before it is asked for: in time, within bounds, and without any say in what is read."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmclip_data.loading.look_ahead import Slices
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.shards import index_shards
from mmclip_data.stores import (
    CacheConfig,
    LookAhead,
    Need,
    PlannedRead,
    RemoteReader,
    RemoteShard,
    expand_places,
    open_indexes,
)
from mmclip_data.testing.shard_faults import make_shard
from mmclip_data.testing.store_faults import FaultyServer, Request, serving

SAMPLES = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made")
    for number in range(4):
        (folder / f"{number}.tar").write_bytes(make_shard(SAMPLES, number).raw)
    assert [done.error for done in index_shards(sorted(folder.glob("*.tar")))] == [None] * 4
    return {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def web(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(FaultyServer(files)) as server:
        yield server


def readers_of(server: FaultyServer, folder: Path, **changes: object) -> list[RemoteReader]:
    config = CacheConfig(**{"folder": str(folder), "parallel": 3, **changes})  # type: ignore[arg-type]
    shards = [place for place in expand_places(f"{server.url}/{{0..3}}.tar", config) if isinstance(place, RemoteShard)]
    indexes = open_indexes(shards, None)
    server.requests.clear()
    return [RemoteReader(shard, index, ("jpg", "txt")) for shard, index in zip(shards, indexes, strict=True)]


def start(readers: list[RemoteReader], reads: list[PlannedRead], needs: list[Need]) -> LookAhead:
    return LookAhead(readers[0].tar.stores, readers, iter(reads), iter(needs))


def wait_until(done: Callable[[], bool]) -> None:
    """Looks again and again; a test that waits for what never comes fails after a minute."""
    waiting = threading.Event()
    for _ in range(6000):
        if done():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come")


def tars(server: FaultyServer) -> list[Request]:
    return [request for request in list(server.requests) if request.method == "GET" and request.path.endswith(".tar")]


def test_samples_are_there_before_they_are_asked_for(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range")
    reads = [PlannedRead(number % 4, number // 4) for number in range(4 * SAMPLES)]
    ahead = start(readers, reads, [])
    wait_until(lambda: len(tars(web)) == len(reads))
    for shard, row in reads:
        expected = list(make_shard(SAMPLES, shard).samples.values())[row]
        assert readers[shard].read(row, ("jpg", "txt")) == {name: expected[name] for name in ("jpg", "txt")}
    assert len(tars(web)) == len(reads), "nothing was asked for twice"
    assert readers[0].read(0, ("jpg", "txt")), "what was not planned is read all the same"
    ahead.close()


def test_the_memory_for_samples_is_bounded(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range", look_ahead_bytes=2000)
    reads = [PlannedRead(0, row) for row in range(SAMPLES)]
    sizes = [sum(member.size for member in readers[0].members(row, ("jpg", "txt")).values()) for row in range(SAMPLES)]
    ahead = start(readers, reads, [])
    most = next(number for number in range(SAMPLES) if sum(sizes[:number]) > 2000)
    wait_until(lambda: len(tars(web)) >= most)
    threading.Event().wait(0.3)
    assert len(tars(web)) == most
    for row in range(SAMPLES):
        assert readers[0].read(row, ("jpg", "txt"))
    assert len(tars(web)) == SAMPLES
    ahead.close()


def test_shards_come_in_the_order_of_need_and_leave_room_for_those_in_use(web: FaultyServer, tmp_path: Path):
    size = len(make_shard(SAMPLES, 0).raw)
    readers = readers_of(web, tmp_path, mode="download", downloads=1, max_bytes=5 * size // 2)
    needs = [Need(shard, SAMPLES, 0 if shard < 3 else 8, 8 if shard < 3 else 16) for shard in (2, 0, 1, 3)]
    ahead = start(readers, [], needs)
    wait_until(lambda: len(tars(web)) == 2)
    threading.Event().wait(0.6)
    assert [request.path for request in tars(web)] == ["/2.tar", "/0.tar"], "a third would drive out one that is needed"
    assert [reader.tar.is_local for reader in readers] == [True, False, True, False]
    for row in range(SAMPLES):
        ahead.advance()
        assert readers[2].read(row, ("jpg", "txt"))
    wait_until(lambda: readers[1].tar.is_local)
    ahead.close()


def test_a_shard_of_which_little_is_needed_is_read_by_ranges(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="auto", downloads=1, look_ahead_bytes=0)
    ahead = start(readers, [], [Need(0, 1, 0, 100), Need(1, SAMPLES, 0, 100)])
    wait_until(lambda: readers[1].tar.is_local)
    assert readers[0].read(0, ("jpg", "txt"))
    assert not readers[0].tar.is_local
    for row in range(1, SAMPLES):  # more than was foreseen: the whole of it is worth it now
        assert readers[0].read(row, ("jpg", "txt"))
    wait_until(lambda: readers[0].tar.is_local)
    ahead.close()


def test_a_failure_in_the_background_stops_the_next_read(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="auto", downloads=1, look_ahead_bytes=0)
    web.choose = lambda request: "404" if request.path == "/1.tar" else None
    ahead = start(readers, [], [Need(1, SAMPLES, 0, 100)])
    wait_until(lambda: bool(web.faults))
    wait_until(lambda: ahead.failure is not None)
    with pytest.raises(OSError, match=r"/1.tar: no such object"):
        readers[0].read(0, ("jpg", "txt"))


def test_the_threads_end_with_the_one_who_reads(web: FaultyServer, tmp_path: Path):
    before = {thread.name for thread in threading.enumerate() if thread.name.startswith("look-ahead")}
    readers = readers_of(web, tmp_path)
    ahead = start(readers, [], [])
    assert readers[0].ahead() is ahead
    del ahead
    wait_until(lambda: gc.collect() >= 0 and readers[0].ahead() is None)
    wait_until(lambda: len([t for t in threading.enumerate() if t.name.startswith("look-ahead")]) <= len(before))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (4, 1), (2, 3)])
def test_the_foreseen_reads_are_those_of_the_loader(ranks: int, workers: int):
    plan = Plan(PlanConfig(lanes=4, window=10), 5, np.array([30, 41, 22, 17, 35, 15, 20, 20]))
    size, start_at = 24, 96
    expected: list[list[tuple[int, int]]] = [[] for _ in range(workers)]
    for step in range(3 * workers):
        positions = plan.rank_slice(start_at + step * size, size, ranks - 1, ranks).tolist()
        expected[step % workers] += [plan.locate(position) for position in positions]
    for number in range(workers):
        reads = Slices(plan, start_at, size, ranks - 1, ranks, number, workers).reads()
        assert [tuple(next(reads)) for _ in expected[number]] == expected[number]


def test_the_foreseen_shards_are_those_of_the_rank():
    plan = Plan(PlanConfig(lanes=4, window=10), 5, np.array([40] * 12))
    for rank in range(4):
        slices = Slices(plan, 0, 16, rank, 4)
        needs = slices.needs()
        epoch = [next(needs) for _ in range(len({p.shard for p in _take(slices.reads(), 120)}))]
        rows: dict[int, int] = {}
        for shard, _ in _take(slices.reads(), 120):
            rows[shard] = rows.get(shard, 0) + 1
        assert {need.shard: need.rows for need in epoch} == rows
        assert list(rows) == [need.shard for need in epoch], "in the order of the first read"
        assert {(need.since, need.until) for need in epoch} == {(0, 120)}


def _take(reads: Iterator[PlannedRead], count: int) -> list[PlannedRead]:
    return [next(reads) for _ in range(count)]
