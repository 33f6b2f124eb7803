"""SIGTERM and SIGUSR1, which schedulers send before they end a job: noted, answered at the edge of a step, and never lost.

A thread reads the signals too, because Python's own handlers wait for the main thread, and that one may wait for a peer that
is gone.
"""

import os
import signal
import socket
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from mmclip.errors import PreemptedError
from mmclip_launch.faults import RUN_FOLDER, is_lost_peer
from mmclip_launch.launcher import EXIT_REQUEUE, STOP_SIGNALS
from mmclip_launch.run.stopping.activity import STEPPING, Activity

SAME_REQUEST_SECONDS = 3.0
"""What comes so soon after the first signal is the same request on another way: of the scheduler's and of the launcher's."""
AT_ONCE_SECONDS = 10.0
"""How long the main thread may take where there is nothing to save."""
STUCK_SECONDS = 60.0
"""How long after the signal the step that is under way may take, at least; else four times the longest so far."""
EVALUATION_SECONDS = 300.0
"""How long after the signal one evaluation set may take."""
WITHOUT_SAVE = "ended without a checkpoint of this step; `--resume` continues from the last one"
SIGNAL_NUMBERS = 128
"""More than there are; a reason is the rank times this, and the signal's number."""
Answer = Literal["at once", "at the edge", "not at all"]


class StopRequest:
    """Whether this process has been told to end, and what it makes of it."""

    def __init__(self, activity: Activity, clock: Callable[[], float] = time.monotonic) -> None:
        self.activity = activity
        self.reason = 0
        """The signal, and the rank that it came to, as one number; 0 as long as nobody has told this run to end."""
        self.answer: Answer = "at once"
        """At once where nothing would be lost by it: before the first step and after the last. Not at all where all is
        saved and the process ends anyway."""
        self._rank = int(os.environ.get("RANK", "0"))
        self._clock = clock
        self._since = 0.0
        self._came: dict[int, float] = {}

    @property
    def why(self) -> str:
        """The reason in words."""
        rank, number = divmod(self.reason, SIGNAL_NUMBERS)
        where = "" if rank == self._rank else f" to rank {rank}"
        return f"{signal.Signals(number).name}{where}" if self.reason else "nothing"

    def take_reason(self, reason: int) -> None:
        """A signal has come, here or at a peer; the first one counts, and 0 is none."""
        if not self.reason and reason:
            self.reason, self._since = reason, self._clock()

    def note(self, number: int) -> None:
        """A signal has come here."""
        self.take_reason(self._rank * SIGNAL_NUMBERS + number)

    def is_told_at(self, answer: Answer) -> bool:
        """Whether this run has been told to end, and that is how it answers now."""
        return self.reason > 0 and self.answer == answer

    def hear_of(self, reason: int) -> None:
        """A peer has been told to end, as its heartbeat says; called by a thread."""
        if reason and not self.reason and self.answer != "not at all":
            self.take_reason(reason)
            if self.answer == "at once":
                interrupt_main(signal.SIGTERM)

    def end_at_once(self) -> None:
        """Where nothing would be lost: the request ends the run from now on, an earlier one right now."""
        self.answer = "at once"
        if self.reason:
            raise PreemptedError(self._nothing_lost())

    def handle(self, number: int, frame: object) -> None:
        """Python's handler, in the main thread."""
        if self.answer != "not at all":
            self.note(number)
        if self.answer == "at once":
            raise PreemptedError(self._nothing_lost())

    def come(self, number: int) -> None:
        """A signal, as the thread sees it, whatever the main thread is at.

        The same one again is from somebody who will not wait; another one, SIGTERM after SIGUSR1 say, is the same end coming
        nearer.
        """
        if self.answer == "not at all":
            return
        self.note(number)
        if self._clock() - self._came.setdefault(number, self._clock()) > SAME_REQUEST_SECONDS:
            name = signal.Signals(number).name
            leave(f"{name} again, still {self.activity.words()}: {WITHOUT_SAVE}")

    def check(self) -> None:
        """Leave where the main thread takes too long to answer; called about once a second."""
        if not self.reason or self.answer == "not at all":
            return
        patience, waited = self._patience(), self._clock() - self._since
        if patience is not None and waited > patience:
            leave(f"{self.why}: still {self.activity.words()} after {waited:.0f} s: {WITHOUT_SAVE}")

    def _patience(self) -> float | None:
        if self.answer == "at once":
            return AT_ONCE_SECONDS
        if self.activity.phase == "evaluating":
            return EVALUATION_SECONDS
        if self.activity.phase in STEPPING:
            return max(STUCK_SECONDS, 4 * self.activity.longest_step_seconds)
        return None  # a save takes as long as the disk needs

    def _nothing_lost(self) -> str:
        return f"{self.why}: ended {self.activity.words()}, where nothing was to be saved{_resume_hint()}"


def _resume_hint() -> str:
    return "; `--resume` continues" if RUN_FOLDER.get() else ""


def leave(message: str) -> None:
    """End this process now, from any thread, with the exit code for a requeue."""
    rank = int(os.environ.get("RANK", "0"))
    where = f"rank {rank}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    print(f"mmclip: {where}{message}", file=sys.stderr, flush=True)
    os._exit(EXIT_REQUEUE)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Answer the signals in here, where this is the main thread; a run that is told to end raises PreemptedError.

    Afterwards the former handlers are back, but after a PreemptedError: the process is ending, and a launcher that sees one
    of its processes gone sends SIGTERM to the others.
    """
    request = StopRequest(Activity())
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reader.settimeout(1.0)
    before = {number: signal.signal(number, request.handle) for number in STOP_SIGNALS}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader, request), daemon=True, name="stop-signals")
    listener.start()
    try:
        yield request
    except PreemptedError:
        before = dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN)
        raise
    except Exception as error:
        if not request.reason or not is_lost_peer(error):
            raise
        before = dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN)
        raise PreemptedError(f"{request.why}: ended with a process that had been told to end") from error
    finally:
        request.answer = "not at all"
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        with suppress(BlockingIOError):  # full of signals: the thread wakes up anyway
            writer.send(b"\0")
        listener.join(5.0)
        reader.close()
        writer.close()


def _listen(reader: socket.socket, request: StopRequest) -> None:
    """Until a zero comes; each byte is the number of a signal."""
    while True:
        try:
            numbers = reader.recv(64)
        except TimeoutError:
            numbers = b""
        if 0 in numbers:
            return
        for number in numbers:
            if number in STOP_SIGNALS:
                request.come(number)
        request.check()
