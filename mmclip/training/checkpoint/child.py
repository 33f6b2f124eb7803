"""A process that does one kind of work beside training: a line of JSON to it is an order, a line from it an answer."""

import contextlib
import json
import os
import select
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class ChildDied(Exception):
    """It ended before it answered; the text says how."""


_living: "weakref.WeakSet[Child]" = weakref.WeakSet()


class Child:
    """A Python module as a process, started with the first order; after its death the next order starts another."""

    def __init__(self, module: str, words: Sequence[str] = (), descriptors: Sequence[int] = ()) -> None:
        self._command = [sys.executable, "-P", "-m", module, *words]
        self._descriptors = tuple(descriptors)
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        _living.add(self)

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Have the process ready before it is needed."""
        if self._process is not None:
            return
        root = str(Path(__file__).parents[3])  # the same mmclip as here, wherever that came from
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._descriptors,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def send(self, order: Mapping[str, Any]) -> None:
        """Hand over an order.

        Raises:
            ChildDied: nobody takes it.
        """
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def receive(self, timeout_seconds: float | None) -> dict[str, Any] | None:
        """The next answer; None if none came within the time.

        Raises:
            ChildDied: none will come.
        """
        while b"\n" not in self._received:
            assert self._process is not None
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
            if not ready:
                return None
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            if not received:
                self._died()
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def close(self, timeout_seconds: float) -> bool:
        """Let it end its work; whether it did within the time."""
        process, self._process = self._process, None
        if process is None:
            return True
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.stdout.close()
        return True

    def _died(self) -> None:
        process, self._process, self._received = self._process, None, b""
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        code = process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it did not take goes to its successor
            process.stdin.close()
        raise ChildDied(f"signal {-code}" if code < 0 else f"exit code {code}")

    def let_go(self) -> None:
        """In a fork of this process: a loader process that held the other end too would keep the child waiting for orders."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()


def _let_go() -> None:
    for child in list(_living):
        child.let_go()


os.register_at_fork(after_in_child=_let_go)
