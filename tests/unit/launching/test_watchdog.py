"""The watchdog's threads over a store in memory: what they say, what they write, and what they tell the signals."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mmclip_launch.run.hangs import heartbeat, watchdog
from mmclip_launch.run.hangs.heartbeat import Beat
from mmclip_launch.run.hangs.watchdog import HANGS, Watchdog
from mmclip_launch.run.hangs.watchdog_config import WatchdogConfig
from mmclip_launch.run.stopping.activity import Activity
from mmclip_launch.run.stopping.stop_signals import SIGNAL_NUMBERS, StopRequest

CONFIG = WatchdogConfig(warn_seconds=0.3, stalled_seconds=0.3, end_seconds=None)


class MemoryStore:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.may_answer = threading.Event()
        self.may_answer.set()

    def set(self, key: str, value: str, /) -> None:
        self.values[key] = value

    def check(self, keys: list[str], /) -> bool:
        self.may_answer.wait()
        return all(key in self.values for key in keys)

    def multi_get(self, keys: list[str], /) -> Sequence[bytes]:
        self.may_answer.wait()
        return [self.values[key].encode() for key in keys]


class Peer:
    """Another process, rank 1, whose heart beats as long as `lives`."""

    def __init__(self, store: MemoryStore) -> None:
        self.beat = Beat(0, 7, "in a step", "node-b", 4711)
        self.lives = True
        self.rank = 1
        self.store = store
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.ends.wait(0.02):
            if self.lives:
                self.beat = replace(self.beat, count=self.beat.count + 1)
                self.store.set(heartbeat._key(self.rank), json.dumps(asdict(self.beat)))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    monkeypatch.setattr(watchdog, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "INTERVAL_SECONDS", 0.05)
    store = MemoryStore()
    monkeypatch.setattr(watchdog, "connect", lambda: store)
    return store


@pytest.fixture
def peer(store: MemoryStore) -> Iterator[Peer]:
    peer = Peer(store)
    yield peer
    peer.ends.set()
    peer.thread.join()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / HANGS).read_text().splitlines()]


def test_a_frozen_rank_is_named_with_the_stacks_of_the_living_and_its_return_is_told(peer: Peer, tmp_path: Path):
    said: list[str] = []
    stop = StopRequest(Activity())
    dog = Watchdog(CONFIG, tmp_path, 0, 2, stop, said.append)
    until(lambda: dog._exchange is not None and dog._exchange.heard != {})
    peer.lives = False
    until(lambda: len(said) == 1)
    assert said[0].startswith("rank 1 (node-b, process 4711) has not answered for ")
    assert f"it was in step 8; what the others are at: {tmp_path}/hang.rank*.txt" in said[0]
    stacks = (tmp_path / "hang.rank0.txt").read_text()
    assert said[0] in stacks
    assert "in test_a_frozen_rank_is_named_with_the_stacks" in stacks
    peer.lives = True
    until(lambda: len(said) == 2)
    assert "answers again" in said[1]
    dog.close()
    first, second = lines(tmp_path)
    assert (first["event"], first["ranks"], first["processes"]) == ("silent", [1], ["node-b:4711"])
    assert (second["event"], second["ranks"]) == ("answers", [1])
    assert json.loads(peer.store.values[heartbeat._key(0)])["is_over"]


def test_a_store_that_hangs_with_the_process_that_hosts_it_names_that_process(
    store: MemoryStore, peer: Peer, tmp_path: Path
):
    """Rank 0 hosts it where no launcher does; here rank 1 is the one that is left."""
    peer.rank = 0
    said: list[str] = []
    dog = Watchdog(CONFIG, tmp_path, 1, 2, StopRequest(Activity()), said.append)
    until(lambda: dog._exchange is not None and dog._exchange.heard != {})
    store.may_answer.clear()
    until(lambda: len(said) == 1)
    assert said[0].startswith("rank 0 (node-b, process 4711) has not answered for ")
    store.may_answer.set()
    until(lambda: len(said) == 2)
    assert said[1].startswith("rank 0 (node-b, process 4711) answers again")
    dog.close()


def test_a_peer_that_is_told_to_end_tells_this_process(peer: Peer, tmp_path: Path):
    stop = StopRequest(Activity())
    stop.answer = "at the edge"
    dog = Watchdog(replace(CONFIG, warn_seconds=60), tmp_path, 0, 2, stop, print)
    peer.beat = replace(peer.beat, told_to_end=SIGNAL_NUMBERS + signal.SIGUSR1)
    until(lambda: stop.reason > 0)
    assert stop.why == "SIGUSR1 to rank 1"
    dog.close()


def test_one_process_that_gets_no_further_writes_its_stacks(store: MemoryStore, tmp_path: Path):
    said: list[str] = []
    stop = StopRequest(Activity())
    stop.activity.begin("in a step", 3)
    dog = Watchdog(CONFIG, tmp_path, 0, 1, stop, said.append)
    until(lambda: len(said) == 1)
    assert said[0].startswith("no step has ended for ")
    assert "(rank 0 in step 4)" in said[0]
    assert "test_watchdog.py" in (tmp_path / "hang.rank0.txt").read_text()
    stop.activity.begin("waiting for data", 4)
    until(lambda: len(said) == 2)
    assert said[1].startswith("the processes get on again")
    dog.close()
    assert store.values == {}, "alone, there is nobody to tell"


def test_a_folder_that_cannot_be_written_does_not_end_the_watch(peer: Peer, tmp_path: Path):
    said: list[str] = []
    dog = Watchdog(CONFIG, tmp_path / "gone", 0, 2, StopRequest(Activity()), said.append)
    until(lambda: dog._exchange is not None and dog._exchange.heard != {})
    peer.lives = False
    until(lambda: len(said) == 1)
    assert f"(not written to {tmp_path}/gone: No such file or directory)" in said[0]
    peer.lives = True
    until(lambda: len(said) == 2)
    dog.close()
