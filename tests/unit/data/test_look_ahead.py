"""What is fetched before it is asked for: in time, within bounds, and without any say in what is read."""

import os
import threading
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

from mmclip.batch import DataPosition
from mmclip.errors import BadSampleError
from mmclip_data.loading.look_ahead import Slices
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.loading.planned import Layout, PlannedSource
from mmclip_data.loading.sources import IndexedTars
from mmclip_data.shards import index_shards
from mmclip_data.stores import (
    CacheConfig,
    LookAhead,
    Need,
    PlannedRead,
    RemoteReader,
    RemoteShard,
    StoreError,
    UnavailableError,
    expand_places,
    open_indexes,
    samples_ahead,
)
from mmclip_data.stores.samples_ahead import LATE_READS
from mmclip_data.testing.shard_faults import make_shard
from mmclip_data.testing.store_faults import FaultyServer, Request, serving, wait_until

SAMPLES = 8
WANTED = ("jpg", "txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for number in range(4):
        (folder / f"{number}.tar").write_bytes(make_shard(SAMPLES, number).raw)
    assert [done.error for done in index_shards(sorted(folder.glob("*.tar")))] == [None] * 4
    return folder


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(FaultyServer({f"/{path.name}": path.read_bytes() for path in folder.iterdir()})) as server:
        yield server


def readers_of(server: FaultyServer, cache: Path, **changes: object) -> list[RemoteReader]:
    config = CacheConfig(**{"folder": str(cache), "parallel": 3, **changes})  # type: ignore[arg-type]
    shards = [place for place in expand_places(f"{server.url}/{{0..3}}.tar", config) if isinstance(place, RemoteShard)]
    indexes = open_indexes(shards, None)
    server.requests.clear()
    return [RemoteReader(shard, index, WANTED) for shard, index in zip(shards, indexes, strict=True)]


def start(readers: list[RemoteReader], reads: list[PlannedRead], needs: list[Need]) -> LookAhead:
    return LookAhead(readers[0].tar.stores, readers, iter(reads), iter(needs))


def expected(shard: int, row: int) -> dict[str, bytes]:
    sample = list(make_shard(SAMPLES, shard).samples.values())[row]
    return {name: sample[name] for name in WANTED}


def size_of(shard: int, row: int) -> int:
    return sum(map(len, expected(shard, row).values()))


def tars(server: FaultyServer) -> list[Request]:
    return [request for request in list(server.requests) if request.method == "GET" and request.path.endswith(".tar")]


# What is fetched


def test_samples_are_there_before_they_are_asked_for(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range")
    reads = [PlannedRead(number % 4, number // 4) for number in range(4 * SAMPLES)]
    ahead = start(readers, reads, [])
    wait_until(lambda: len(tars(web)) == len(reads))
    for shard, row in reads:
        assert readers[shard].read(row, WANTED) == expected(shard, row)
    assert len(tars(web)) == len(reads), "nothing was asked for twice"
    assert readers[0].read(0, WANTED) == expected(0, 0), "what was not planned is read all the same"
    ahead.close()


def test_the_memory_for_samples_is_bounded(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range", look_ahead_bytes=2000)
    first_bytes = [min(member.offset for member in readers[0].members(row, WANTED).values()) for row in range(SAMPLES)]
    sizes = [size_of(0, row) for row in range(SAMPLES)]
    held: list[int] = [0]
    seen: list[int] = []

    def choose(request: Request) -> None:
        assert request.span is not None
        held[0] += sizes[first_bytes.index(request.span[0])]
        seen.append(held[0])

    web.choose = choose
    ahead = start(readers, [PlannedRead(0, row) for row in range(SAMPLES)], [])
    wait_until(lambda: len(seen) == 2)
    for row in range(SAMPLES):
        held[0] -= sizes[row]
        assert readers[0].read(row, WANTED) == expected(0, row)
    assert len(seen) == SAMPLES, "nothing was asked for twice"
    assert 2000 - max(sizes) < max(seen) <= 2000
    ahead.close()


def test_a_sample_larger_than_the_memory_is_read_when_its_time_comes(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range", look_ahead_bytes=size_of(0, 0) - 1)
    smaller = next(row for row in range(SAMPLES) if size_of(0, row) < size_of(0, 0))
    ahead = start(readers, [PlannedRead(0, 0), PlannedRead(0, smaller)], [])
    wait_until(lambda: len(tars(web)) == 1)
    assert [readers[0].read(row, WANTED) for row in (0, smaller)] == [expected(0, row) for row in (0, smaller)]
    assert len(tars(web)) == 2
    ahead.close()


def test_what_nobody_comes_for_gives_its_room_back(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range", look_ahead_bytes=2000)
    places = (PlannedRead(shard, row) for shard in range(4) for row in range(SAMPLES))
    behind = repeat(PlannedRead(0, 0), LATE_READS + 10)
    ahead = LookAhead(readers[0].tar.stores, readers, chain(places, behind, [PlannedRead(3, 5)]), iter([]))
    wait_until(lambda: len(tars(web)) == 2)
    with ahead._samples.state:  # all at once, for the threads
        for _ in range(LATE_READS + 10 + 4 * SAMPLES):
            ahead.advance()
    wait_until(lambda: len(tars(web)) == 3)
    assert readers[3].read(5, WANTED) == expected(3, 5)
    assert len(tars(web)) == 3, "it was fetched ahead, and what was behind was not"
    ahead.close()


def test_samples_that_are_refused_take_no_room(web: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples_ahead, "MAX_SAMPLES_AHEAD", 4)
    readers = readers_of(web, tmp_path, mode="range")
    readers[0].max_member_bytes = 10
    ahead = start(readers, [*(PlannedRead(0, row) for row in range(SAMPLES)), PlannedRead(1, 0)], [])
    wait_until(lambda: len(tars(web)) == 1)
    with pytest.raises(BadSampleError, match="expected at most 10 bytes"):
        readers[0].read(0, WANTED)
    assert readers[1].read(0, WANTED) == expected(1, 0)
    ahead.close()


def test_a_sample_without_any_of_the_wanted_members_is_empty_as_on_a_disk(web: FaultyServer, tmp_path: Path):
    reader = readers_of(web, tmp_path, mode="range")[0]
    assert reader.read(0, ("webp",)) == {}
    assert tars(web) == []


def test_shards_come_in_the_order_of_need_and_leave_room_for_those_in_use(web: FaultyServer, tmp_path: Path):
    size = len(make_shard(SAMPLES, 0).raw)
    readers = readers_of(web, tmp_path, mode="download", downloads=1, max_bytes=5 * size // 2)
    needs = [Need(shard, SAMPLES, 0 if shard < 3 else 8, 8 if shard < 3 else 16) for shard in (2, 0, 1, 3)]
    read = [0]
    asked: list[tuple[str, int]] = []
    web.choose = lambda request: asked.append((request.path, read[0])) if request.method == "GET" else None
    ahead = start(readers, [], needs)
    wait_until(lambda: readers[0].tar.is_local)
    for row in range(SAMPLES):
        assert [reader.tar.is_local for reader in readers] == [True, False, True, False]
        read[0] += 1
        ahead.advance()
        assert readers[2].read(row, WANTED) == expected(2, row)
    wait_until(lambda: readers[1].tar.is_local)
    assert asked[:3] == [("/2.tar", 0), ("/0.tar", 0), ("/1.tar", 8)], "a third would have driven out one in use"
    ahead.close()


def test_reads_from_the_disk_bring_the_time_of_a_shard_nearer_too(web: FaultyServer, tmp_path: Path, folder: Path):
    config = CacheConfig(folder=str(tmp_path))
    tars = expand_places([str(folder / "0.tar"), f"{web.url}/1.tar"], config)
    source = IndexedTars("mixed", tars, WANTED)
    order = Plan(PlanConfig(), 0, source.shard_sizes)
    planned = PlannedSource(source, order, Layout(4), DataPosition(0))
    samples = iter(planned)
    seen = [next(samples)["__url__"] for _ in range(2 * SAMPLES)]
    assert set(seen) == set(map(str, tars))
    ahead = planned._looks_ahead[os.getpid()].result()
    assert ahead is not None
    assert ahead._shards.reads == 2 * SAMPLES
    ahead.close()


def test_a_shard_whose_time_is_far_is_not_fetched_yet(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="download", downloads=1)
    read = [0]
    asked: list[tuple[str, int]] = []
    web.choose = lambda request: asked.append((request.path, read[0])) if request.method == "GET" else None
    ahead = start(readers, [], [Need(0, SAMPLES, 0, 10), Need(1, SAMPLES, 20, 30)])
    wait_until(lambda: readers[0].tar.is_local)
    for read[0] in range(1, 11):
        ahead.advance()
    wait_until(lambda: readers[1].tar.is_local)
    assert asked == [("/0.tar", 0), ("/1.tar", 10)], "as early as one window before"
    ahead.close()


def test_a_shard_of_which_little_is_needed_is_read_by_ranges(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="auto", downloads=1, look_ahead_bytes=0)
    ahead = start(readers, [], [Need(0, 1, 0, 100), Need(1, SAMPLES, 0, 100)])
    wait_until(lambda: readers[1].tar.is_local)
    assert readers[0].read(0, WANTED)
    assert not readers[0].tar.is_local
    for row in range(1, SAMPLES):  # more than was foreseen: the whole of it is worth it now
        assert readers[0].read(row, WANTED)
    wait_until(lambda: readers[0].tar.is_local)
    ahead.close()


# What fails


def test_a_failure_in_the_background_stops_the_next_read(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="auto", downloads=1, look_ahead_bytes=0)
    web.choose = lambda request: "404" if request.path == "/1.tar" else None
    ahead = start(readers, [], [Need(1, SAMPLES, 0, 100)])
    wait_until(lambda: ahead.failure is not None)
    with pytest.raises(StoreError, match=r"/1.tar: no such object"):
        readers[0].read(0, WANTED)


def test_a_fault_of_the_plan_stops_the_next_read(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, mode="range")
    places = (PlannedRead(0, 1 // (1 - row)) for row in range(3))
    ahead = LookAhead(readers[0].tar.stores, readers, places, iter([]))
    wait_until(lambda: ahead.failure is not None)
    with pytest.raises(ZeroDivisionError):
        readers[0].read(0, WANTED)


@pytest.mark.parametrize(
    "error", [UnavailableError("503"), RuntimeError("a fault of the fetching thread"), SystemExit()]
)
def test_what_failed_before_it_is_asked_for_is_asked_for_again(web: FaultyServer, tmp_path: Path, error: BaseException):
    readers = readers_of(web, tmp_path, mode="range")
    _fail_once(readers[0], error, lambda: None)
    ahead = start(readers, [PlannedRead(0, 0), PlannedRead(0, 1)], [])
    wait_until(lambda: len(tars(web)) == 1)
    assert [readers[0].read(row, WANTED) for row in range(2)] == [expected(0, row) for row in range(2)]
    assert len(tars(web)) == 2
    ahead.close()


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(UnavailableError("503"), True), (RuntimeError("a fault of the fetching thread"), False), (SystemExit(), False)],
)
def test_who_waits_for_a_sample_is_told_that_the_store_failed_and_reads_it_where_that_was_not_so(
    web: FaultyServer, tmp_path: Path, error: BaseException, is_told: bool
):
    readers = readers_of(web, tmp_path, mode="range")
    found: list[object] = []
    waiting: list[LookAhead] = []

    def is_waited_for() -> bool:
        if not waiting:
            return False
        with waiting[0]._samples.state:
            return not waiting[0]._samples._samples

    _fail_once(readers[0], error, lambda: wait_until(is_waited_for))
    ahead = start(readers, [PlannedRead(0, 0)], [])

    def read() -> None:
        try:
            found.append(readers[0].read(0, WANTED))
        except StoreError as error:
            found.append(error)

    wait_until(lambda: "fetch" not in vars(readers[0]))
    waiting.append(ahead)
    reading = threading.Thread(target=read)
    reading.start()
    reading.join(60)
    assert found == [error if is_told else expected(0, 0)]
    ahead.close()


def _fail_once(reader: RemoteReader, error: BaseException, before: Callable[[], object]) -> None:
    def failing(members: object) -> list[bytes]:
        del reader.fetch
        before()
        raise error

    reader.fetch = failing  # type: ignore[method-assign]


# What is foreseen


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


def test_windows_go_on_where_there_are_more_processes_than_samples_in_one():
    plan = Plan(PlanConfig(), 0, np.array([3, 2]))
    needs = Slices(plan, 0, 2, 0, 1, 0, 32).needs()
    assert next(need for need in needs if need.since > 10).since == 11, "a window of 4 samples among 32 processes"


def _take(reads: Iterator[PlannedRead], count: int) -> list[PlannedRead]:
    return [next(reads) for _ in range(count)]
