"""The hang watchdog: a thread in each process that names those who stop answering, and writes down what the others are at."""

import faulthandler
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mmclip_launch.run.hangs.hang_judge import Event, HangJudge
from mmclip_launch.run.hangs.heartbeat import Beat, Exchange, connect, here, store_host
from mmclip_launch.run.hangs.watchdog_config import WatchdogConfig
from mmclip_launch.run.records.ledger import append_lines
from mmclip_launch.run.stopping.stop_signals import StopRequest, leave

HANGS = "hangs.jsonl"
TICK_SECONDS = 1.0
Say = Callable[[str], None]


class Watchdog:
    """The thread of one process."""

    def __init__(
        self, config: WatchdogConfig, folder: Path, rank: int, world_size: int, stop: StopRequest, say: Say
    ) -> None:
        self._config = config
        self._folder = folder
        self._rank = rank
        self._world_size = world_size
        self._stop = stop
        self._say = say
        self._count = itertools.count()
        self._host, self._process = here()
        self._is_over = False
        self._judge = HangJudge(config, rank, world_size, store_host())
        self._exchange = Exchange(rank, world_size, connect, self._beat) if world_size > 1 else None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watchdog")
        self._thread.start()

    def close(self) -> None:
        """Watch no more; the others hear that this process leaves."""
        self._is_over = True
        if self._exchange is not None:
            self._exchange.close()
        self._end.set()
        self._thread.join(2 * TICK_SECONDS)

    def _beat(self) -> Beat:
        activity, told = self._stop.activity, self._stop.reason
        return Beat(next(self._count), activity.step, activity.phase, self._host, self._process, told, self._is_over)

    def _run(self) -> None:
        awake, before = 0.0, time.monotonic()
        while not self._end.wait(TICK_SECONDS):
            now = time.monotonic()
            awake += min(now - before, 2 * TICK_SECONDS)  # while this process was itself stopped, nobody could be heard
            before = now
            self._tick(awake)

    def _tick(self, now: float) -> None:
        exchange, activity = self._exchange, self._stop.activity
        heard = {} if exchange is None else dict(exchange.heard)
        if exchange is not None and exchange.failure is not None:
            return  # the connections of the run's own collectives tell the main thread
        for beat in heard.values():
            self._stop.hear_of(beat.told_to_end)
        rounds = 0 if exchange is None else exchange.rounds
        own = Beat(0, activity.step, activity.phase, self._host, self._process)
        for event in self._judge.judge(now, own, heard, rounds, activity.longest_step_seconds):
            self._report(event, {**heard, self._rank: own})

    def _report(self, event: Event, beats: dict[int, Beat]) -> None:
        unaware = self._judge.silent.union(event.ranks if event.kind == "answers" else ())
        speaks = self._rank == min(set(range(self._world_size)) - unaware)
        message = self._words(event, beats)
        try:
            if event.kind in ("silent", "stalled"):
                self._write_stacks(message)
            if speaks:
                append_lines(self._folder / HANGS, [self._line(event, beats, message)])
        except OSError as error:  # a full disk must not end the watch
            message = f"{message} (not written to {self._folder}: {error.strerror})"
        if event.kind == "end":
            leave(
                f"{message}: ended, so that the launcher can start the run anew; `--resume` continues from its last checkpoint"
            )
        if speaks:
            self._say(message)

    def _words(self, event: Event, beats: dict[int, Beat]) -> str:
        who = ", ".join(_who(rank, beats) for rank in event.ranks) or "the launcher's store, where the processes meet,"
        stacks = f"what the others are at: {self._folder}/hang.rank*.txt"
        if event.kind == "silent":
            end = self._config.end_seconds
            ends = "" if end is None else f"; the run ends after {end:.0f} s of it"
            return f"{who} has not answered for {event.seconds:.0f} s{_it_was(event.ranks, beats)}; {stacks}{ends}"
        if event.kind == "answers":
            return f"{who} answers again after {event.seconds:.0f} s: the run goes on"
        if event.kind == "moves":
            return "the processes get on again: the run goes on"
        if event.kind == "end":
            return f"{who if event.ranks else 'no process'} {'does not answer' if event.ranks else 'gets on'}" + (
                f" for {event.seconds:.0f} s"
            )
        places = "; ".join(f"rank {rank} {beat.words()}" for rank, beat in sorted(beats.items()))
        waits = f", the others wait for {who}" if len(event.ranks) < len(beats) else ""
        return f"no step has ended for {event.seconds:.0f} s though all answer{waits} ({places}); {stacks}"

    def _line(self, event: Event, beats: dict[int, Beat], message: str) -> dict[str, object]:
        named = [(rank, beats[rank]) for rank in event.ranks if rank in beats]
        return {
            "time": _now(),
            "event": event.kind,
            "seconds": round(event.seconds, 1),
            "ranks": list(event.ranks),
            "at": [beat.words() for _, beat in named],
            "processes": [f"{beat.host}:{beat.process}" for _, beat in named],
            "message": message,
        }

    def _write_stacks(self, message: str) -> None:
        with (self._folder / f"hang.rank{self._rank}.txt").open("a") as file:
            file.write(f"{_now()}  rank {self._rank} ({self._host}, process {self._process}): {message}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            file.write("\n")


@contextmanager
def watching(
    config: WatchdogConfig, folder: Path, rank: int, world_size: int, stop: StopRequest, say: Say
) -> Iterator[None]:
    """Watch the processes of a run, from the moment that all are there."""
    watchdog = Watchdog(config, folder, rank, world_size, stop, say)
    try:
        yield
    finally:
        watchdog.close()


def _who(rank: int, beats: dict[int, Beat]) -> str:
    beat = beats.get(rank)
    return f"rank {rank}" if beat is None else f"rank {rank} ({beat.host}, process {beat.process})"


def _it_was(ranks: Sequence[int], beats: dict[int, Beat]) -> str:
    places = {beats[rank].words() for rank in ranks if rank in beats}
    return f"; it was {', '.join(sorted(places))}" if places else ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
