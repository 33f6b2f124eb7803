"""How looking ahead ends: with the one who reads, with the process, at a fork; nobody waits for what will not come."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from mmclip_data.testing.store_faults import FaultyServer, Request, serving, wait_until

SAMPLES = 8
WANTED = ("jpg", "txt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made")
    for number in range(2):
        (folder / f"{number}.tar").write_bytes(make_shard(SAMPLES, number).raw)
    assert [done.error for done in index_shards(sorted(folder.glob("*.tar")))] == [None] * 2
    return {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def web(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(FaultyServer(files)) as server:
        yield server


def readers_of(server: FaultyServer, folder: Path, **changes: object) -> list[RemoteReader]:
    config = CacheConfig(**{"folder": str(folder), "parallel": 3, "idle_seconds": 300.0, **changes})  # type: ignore[arg-type]
    shards = [place for place in expand_places(f"{server.url}/{{0..1}}.tar", config) if isinstance(place, RemoteShard)]
    indexes = open_indexes(shards, None)
    server.requests.clear()
    return [RemoteReader(shard, index, WANTED) for shard, index in zip(shards, indexes, strict=True)]


def expected(shard: int, row: int) -> dict[str, bytes]:
    sample = list(make_shard(SAMPLES, shard).samples.values())[row]
    return {name: sample[name] for name in WANTED}


def is_tar(request: Request) -> bool:
    return request.method == "GET" and request.path.endswith(".tar")


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("samples-ahead", "shards-ahead"))]


def test_the_threads_end_with_the_one_who_reads(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, look_ahead_bytes=1000)
    before = set(ahead_threads())
    faults = iter(["503", "drop", "short", "503", "honest-short"])
    web.choose = lambda request: next(faults, None) if is_tar(request) else None
    gc.collect()
    gc.disable()
    try:
        places = (PlannedRead(0, row % SAMPLES) for row in range(9**9))
        ahead = LookAhead(readers[0].tar.stores, readers, places, iter([]))
        assert len(set(ahead_threads()) - before) == 3 + 4
        assert [readers[0].read(row, WANTED) for row in range(3)] == [expected(0, row) for row in range(3)]
        wait_until(lambda: sum(web.faults.values()) == 5)
        assert readers[0].ahead() is ahead
        del ahead
        assert readers[0].ahead() is None, "no error on the way has kept it"
        wait_until(lambda: not set(ahead_threads()) - before)
    finally:
        gc.enable()
    assert readers[0].read(0, WANTED) == expected(0, 0)


def test_closing_ends_what_is_under_way_and_who_waits_for_it_reads_for_himself(web: FaultyServer, tmp_path: Path):
    readers = readers_of(web, tmp_path, downloads=1)
    web.choose = lambda request: "mute" if is_tar(request) else None
    ahead = LookAhead(readers[0].tar.stores, readers, iter([PlannedRead(0, 3)]), iter([Need(1, SAMPLES, 0, 9)]))
    wait_until(lambda: web.faults["mute"] == 2)
    found: list[dict[str, bytes]] = []
    reading = threading.Thread(target=lambda: found.append(readers[0].read(3, WANTED)))
    reading.start()
    wait_until(lambda: not ahead._samples._samples)
    web.choose = lambda request: None
    ahead.close()
    reading.join(60)
    assert found == [expected(0, 3)]
    wait_until(lambda: not ahead_threads())
    assert readers[1].tar.fetch(wait=False), "the lock on the shard is free"


def test_a_forked_process_uses_neither_threads_nor_locks_nor_connections_of_its_parent(
    web: FaultyServer, tmp_path: Path
):
    readers = readers_of(web, tmp_path, mode="range", look_ahead_bytes=1000, idle_seconds=5.0)
    ahead = LookAhead(readers[0].tar.stores, readers, iter(PlannedRead(0, row) for row in range(SAMPLES)), iter([]))
    wait_until(lambda: [one.payloads and one.payloads.done() for one in ahead._samples._samples.values()] == [True])
    store = readers[0].tar.store

    def read_in_child() -> None:
        assert ahead.take(readers[0], 0) is None
        ahead.put(readers[0].tar)
        found = readers[0].read(0, WANTED)
        gc.collect()
        sys.exit(0 if found == expected(0, 0) else 1)

    with ahead._samples.state, ahead._shards.state, store._of_process().lock:  # as another thread may have them
        child = threading.Thread(target=_fork, args=(read_in_child, exits := []))
        child.start()
        child.join(60)
    assert exits == [0]
    for row in range(SAMPLES):
        assert readers[0].read(row, WANTED) == expected(0, row)
    assert len(web.requests) == SAMPLES + 1, "no answer to the parent got lost, and the child asked once"
    ahead.close()


def _fork(target: object, exits: list[int | None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=target)  # type: ignore[arg-type]
    process.start()
    process.join(50)
    exits.append(process.exitcode)
    process.kill()


PROGRAM = """
import atexit, signal, sys, threading
from contextlib import suppress
from mmclip_data.stores import *

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored

reading = []

@atexit.register
def wait_for_them():  # as a loader does
    for thread in reading:
        thread.join(20)
        if thread.is_alive():
            print("a thread does not end", file=sys.stderr)

url, folder = sys.argv[1:]
config = CacheConfig(folder=folder, idle_seconds=300.0, parallel=3)
shards = expand_places(f"{url}/{{0..1}}.tar", config)
readers = [RemoteReader(shard, index, ("jpg", "txt")) for shard, index in zip(shards, open_indexes(shards, None))]
reads, needs = [PlannedRead(0, row) for row in range(8)], [Need(1, 8, 0, 100)]
ahead = LookAhead(shards[0].stores, readers, iter(reads), iter(needs))

def read(row):
    with suppress(Exception):  # as the threads of a loader, which keep it for the one who asks
        readers[0].read(row, ("jpg", "txt"))

for row in (0, 7):  # one under way already, and one that is not
    reading.append(threading.Thread(target=read, args=(row,), daemon=True))
    reading[-1].start()
sys.stdin.readline()
"""


def run(server: FaultyServer, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, server.url, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("fault", ["mute", "stall", "503"])
def test_a_program_ends_at_once_and_in_silence_while_the_store_does_not_answer(
    web: FaultyServer, tmp_path: Path, fault: str
):
    web.choose = lambda request: fault if is_tar(request) else None
    process = run(web, tmp_path)
    wait_until(lambda: web.faults[fault] >= 4)
    _, told = process.communicate("\n", timeout=50)  # the server holds its answers back for longer
    assert (process.returncode, told) == (0, "")


def test_ctrl_c_while_indexes_are_opened_ends_a_program_at_once(web: FaultyServer, tmp_path: Path):
    web.choose = lambda request: "mute" if request.path.endswith(".mmidx") else None
    process = run(web, tmp_path)
    wait_until(lambda: web.faults["mute"] >= 2)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=50)
    assert process.returncode == -signal.SIGINT
    assert told.splitlines()[-1] == "KeyboardInterrupt"
    assert "in thread" not in told, "the others end in silence"
    assert "never retrieved" not in told
