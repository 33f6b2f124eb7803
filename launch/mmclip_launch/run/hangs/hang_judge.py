"""Who hangs, from heartbeats and a clock alone: nothing here waits, prints or reads a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmclip_launch.run.hangs.heartbeat import Beat
from mmclip_launch.run.hangs.watchdog_config import WatchdogConfig
from mmclip_launch.run.stopping.activity import STEPPING

STALLED_STEPS = 10
"""Times the longest step so far, which a step may take before it counts as a hang."""


@dataclass(frozen=True)
class Event:
    """Something to say, once."""

    kind: Literal["silent", "answers", "stalled", "moves", "end"]
    ranks: Sequence[int]
    """Those it is about; a launcher's own silence is about none."""
    seconds: float


class HangJudge:
    """The view of one rank on all others; seconds are those of a clock that stands still while this process does."""

    def __init__(
        self, config: WatchdogConfig, rank: int, world_size: int, store_host: int | None, now: float = 0.0
    ) -> None:
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._store_host = store_host
        self._beats: dict[int, Beat] = {}
        self._beat_at = {other: now for other in range(world_size) if other != rank}
        self._store_at, self._rounds = now, -1
        self._moved_at, self._places = now, {}
        self._named: dict[int, float] = {}
        self._store_is_silent = self._is_stalled = self._has_ended = False

    @property
    def silent(self) -> frozenset[int]:
        """Ranks that do not answer, as far as it was said."""
        return frozenset(self._named)

    def judge(
        self, now: float, own: Beat, heard: Mapping[int, Beat], rounds: int, longest_step_seconds: float = 0.0
    ) -> list[Event]:
        """What has begun or ended since the last call; `rounds` counts how often the store has answered."""
        events: list[Event] = []
        if self._world_size > 1:
            events += self._judge_store(now, rounds)
            if not self._store_is_silent:
                events += self._judge_ranks(now, heard)
        self._note_places(now, {self._rank: own, **heard})
        events += self._judge_places(now, {self._rank: own, **heard}, longest_step_seconds)
        return events + self._judge_end(now, longest_step_seconds > 0)

    def _judge_store(self, now: float, rounds: int) -> list[Event]:
        if rounds != self._rounds:
            seconds, was_silent = now - self._store_at, self._store_is_silent
            self._store_at, self._rounds, self._store_is_silent = now, rounds, False
            if was_silent:
                self._beat_at = dict.fromkeys(self._beat_at, now)  # nobody could be heard
                self._named.clear()
                return [Event("answers", self._who_stores(), seconds)]
        elif now - self._store_at > self._config.warn_seconds and not self._store_is_silent:
            self._store_is_silent = True
            self._named.update(dict.fromkeys(self._who_stores(), self._store_at))
            return [Event("silent", self._who_stores(), now - self._store_at)]
        return []

    def _who_stores(self) -> list[int]:
        return [] if self._store_host is None else [self._store_host]

    def _judge_ranks(self, now: float, heard: Mapping[int, Beat]) -> list[Event]:
        events = []
        for rank, beat in heard.items():
            if self._beats.get(rank) != beat or beat.is_over:
                seconds = now - self._beat_at[rank]
                self._beats[rank], self._beat_at[rank] = beat, now
                if self._named.pop(rank, None) is not None:
                    events.append(Event("answers", [rank], seconds))
        late = [
            rank
            for rank, at in self._beat_at.items()
            if rank not in self._named and rank in heard and now - at > self._config.warn_seconds
        ]
        if late:
            longest = max(now - self._beat_at[rank] for rank in late)
            self._named.update({rank: self._beat_at[rank] for rank in late})
            events.append(Event("silent", late, longest))
        return events

    def _note_places(self, now: float, beats: Mapping[int, Beat]) -> None:
        places = {rank: (beat.step, beat.phase) for rank, beat in beats.items()}
        if places != self._places:
            self._places, self._moved_at = places, now

    def _judge_places(self, now: float, beats: Mapping[int, Beat], longest_step_seconds: float) -> list[Event]:
        still = now - self._moved_at
        if self._is_stalled and not still:
            self._is_stalled = False
            return [Event("moves", sorted(beats), still)]
        limit = max(self._config.stalled_seconds, STALLED_STEPS * longest_step_seconds)
        steps = all(beat.phase in STEPPING for beat in beats.values())
        if self._is_stalled or self._named or self._store_is_silent or not steps or still <= limit:
            return []
        self._is_stalled = True
        return [Event("stalled", behind(beats), still)]

    def _judge_end(self, now: float, has_stepped: bool) -> list[Event]:
        """A first step may take long, where it compiles; and one process alone waits for nobody."""
        limit, since = self._config.end_seconds, list(self._named.values())
        if self._store_is_silent:
            since.append(self._store_at)
        if self._is_stalled and has_stepped:
            since.append(self._moved_at)
        if limit is None or self._world_size == 1 or self._has_ended or not since or now - min(since) <= limit:
            return []
        self._has_ended = True
        return [Event("end", sorted(self._named), now - min(since))]


def behind(beats: Mapping[int, Beat]) -> list[int]:
    """Ranks whom the others wait for, as far as it can be told: those at the lowest step, else those in a rarer phase."""
    lowest = min(beat.step for beat in beats.values())
    late = sorted(rank for rank, beat in beats.items() if beat.step == lowest)
    if len(late) < len(beats):
        return late
    phases = [beat.phase for beat in beats.values()]
    rarest = min(set(phases), key=lambda phase: (phases.count(phase), phase == "in a step"))
    odd = sorted(rank for rank, beat in beats.items() if beat.phase == rarest)
    return odd if 2 * len(odd) < len(beats) or len(beats) == 2 else late
