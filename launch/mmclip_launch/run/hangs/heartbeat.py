"""Heartbeats: what each process of a run is at, told to all others about once a second over the store where they met."""

import json
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol

from mmclip_launch.run.attempt import key
from mmclip_launch.run.stopping.activity import in_words

INTERVAL_SECONDS = 1.0
RANKS_A_SECOND = 128
"""Of larger runs each process tells and asks more seldom, so that one store answers all."""


@dataclass(frozen=True)
class Beat:
    """What a process says of itself; one that stands still says the same again and again."""

    count: int
    step: int
    phase: str
    host: str
    process: int
    told_to_end: int = 0
    """`StopRequest.reason`."""
    is_over: bool = False
    """This process leaves, or has nothing more to do with the others."""

    def words(self) -> str:
        """What it is at, for a person."""
        return in_words(self.phase, self.step)


class Store(Protocol):
    """What is needed of torch's `TCPStore`."""

    def set(self, key: str, value: str, /) -> None: ...
    def check(self, keys: list[str], /) -> bool: ...
    def multi_get(self, keys: list[str], /) -> Sequence[bytes]: ...


class Exchange:
    """A thread that tells and asks. It hangs where the store does, which is then itself the sign."""

    def __init__(self, rank: int, world_size: int, connect: Callable[[], Store], now: Callable[[], Beat]) -> None:
        self.heard: dict[int, Beat] = {}
        """The last beat of each other rank."""
        self.rounds = 0
        """How often all have been asked."""
        self.failure: str | None = None
        """Why nothing more is heard."""
        self._rank = rank
        self._others = [other for other in range(world_size) if other != rank]
        self._connect = connect
        self._now = now
        self._interval = max(INTERVAL_SECONDS, world_size / RANKS_A_SECOND)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def close(self) -> None:
        """Say that this process leaves; one that hangs at the store is left behind."""
        self._end.set()
        self._thread.join(2 * INTERVAL_SECONDS)

    def _run(self) -> None:
        try:
            store = self._connect()
            while not self._end.is_set():
                self._round(store)
                self._end.wait(self._interval)
            store.set(_key(self._rank), json.dumps(asdict(self._now())))
        except RuntimeError as error:  # the store went with its host: the peers' own connections tell the main thread
            self.failure = " ".join(str(error).split())[:200]

    def _round(self, store: Store) -> None:
        store.set(_key(self._rank), json.dumps(asdict(self._now())))
        there = [rank for rank in self._others if rank in self.heard or store.check([_key(rank)])]
        if there:
            for rank, beat in zip(there, store.multi_get([_key(rank) for rank in there]), strict=True):
                self.heard[rank] = Beat(**json.loads(beat))
        self.rounds += 1


def connect() -> Store:
    """A connection of one's own to the store where the processes of this run met.

    Raises:
        RuntimeError: there is no store any more.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, None, False, timedelta(days=14), wait_for_workers=False)


def store_host() -> int | None:
    """The rank whose process answers for the store; None where it is the launcher's."""
    return None if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0


def here() -> tuple[str, int]:
    """Machine and process."""
    return socket.gethostname(), os.getpid()


def _key(rank: int) -> str:
    return key(f"beat{rank}")
