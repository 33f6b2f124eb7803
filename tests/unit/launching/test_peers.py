"""Processes of a run meet at a port where an attempt before them may not have ended yet."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from mmclip.errors import MachineError
from mmclip_launch.run import peers

MEET = (
    "import sys; from mmclip_launch.run.peers import meet_peers; store = meet_peers(60); print('met', flush=True); "
    "sys.stdin.read()"
)


def start(port: int, rank: int, restarts: int) -> subprocess.Popen[str]:
    there = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = ["env", *(f"{name}={value}" for name, value in there.items()), f"SLURM_RESTART_COUNT={restarts}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([*command, sys.executable, "-c", MEET], text=True, **pipes)  # pyright: ignore


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def test_a_port_that_is_being_freed_is_waited_for():
    with socket.create_server(("", 0)) as held:
        port = held.getsockname()[1]
        freed = threading.Timer(0.5, held.close)
        freed.start()
        began = time.monotonic()
        peers._await_free_port("127.0.0.1", port, began + 60)
        assert time.monotonic() - began >= 0.4
        freed.join()


def test_a_port_that_stays_taken_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(peers, "FREED_WITHIN_SECONDS", 0.3)
    with socket.create_server(("", 0)) as held, pytest.raises(MachineError, match="is in use by another program"):
        peers._await_free_port("127.0.0.1", held.getsockname()[1], time.monotonic() + 60)
    assert capsys.readouterr().err.count("is taken: waiting up to 0.3 s for it") == 1


@pytest.mark.slow  # four interpreters that import torch
def test_the_store_of_an_earlier_attempt_is_not_taken_for_this_ones():
    port = free_port()
    before = [start(port, rank, restarts=0) for rank in (0, 1)]
    assert [said(process) for process in before] == ["met\n", "met\n"]
    after = [start(port, rank, restarts=1) for rank in (0, 1)]
    time.sleep(8)  # both look at the port by now, and rank 1 has found the old store
    assert [process.poll() for process in after] == [None, None]
    for process in before:
        process.kill()
    assert [said(process) for process in after] == ["met\n", "met\n"]
    for process in before + after:
        process.communicate()
