"""Who hangs, decided from heartbeats that a test makes up and a clock that it turns."""

from dataclasses import replace

from mmclip_launch.run.hangs.hang_judge import Event, HangJudge, behind
from mmclip_launch.run.hangs.heartbeat import Beat
from mmclip_launch.run.hangs.watchdog_config import WatchdogConfig

CONFIG = WatchdogConfig(warn_seconds=20, stalled_seconds=300, end_seconds=600)


class Run:
    """Three ranks as rank 1 sees them, second by second; all are well until told otherwise."""

    def __init__(self, store_host: int | None = None, config: WatchdogConfig = CONFIG, world_size: int = 3) -> None:
        self.judge = HangJudge(config, 1, world_size, store_host)
        self.now = 0.0
        self.rounds = 0
        self.beats = {
            rank: Beat(0, 0, "in a step", f"host{rank}", 100 + rank) for rank in range(world_size) if rank != 1
        }
        self.own = Beat(0, 0, "in a step", "host1", 101)
        self.frozen: set[int] = set()
        self.store_answers = True
        self.steps = True
        self.longest = 1.0

    def seconds(self, seconds: int) -> list[tuple[float, Event]]:
        events = []
        for _ in range(seconds):
            self.now += 1
            if self.steps and not self.frozen:
                self.own = replace(self.own, step=self.own.step + 1)
            if self.store_answers:
                self.rounds += 1
                for rank in self.beats.keys() - self.frozen:
                    beat = self.beats[rank]
                    self.beats[rank] = replace(beat, count=beat.count + 1, step=self.own.step)
            found = self.judge.judge(self.now, self.own, dict(self.beats), self.rounds, self.longest)
            events += [(self.now, event) for event in found]
        return events


def test_a_run_that_is_well_is_left_alone():
    assert Run().seconds(2000) == []


def test_a_rank_that_stands_still_is_named_once_and_again_when_it_answers():
    run = Run()
    run.seconds(10)
    run.frozen = {2}
    assert run.seconds(100) == [(31, Event("silent", [2], 21))]
    assert run.judge.silent == {2}
    run.frozen = set()
    assert run.seconds(10) == [(111, Event("answers", [2], 101))]
    assert run.judge.silent == set()


def test_a_rank_that_never_comes_back_ends_the_run():
    run = Run()
    run.seconds(10)
    run.frozen = {0, 2}
    assert run.seconds(1000) == [(31, Event("silent", [0, 2], 21)), (611, Event("end", [0, 2], 601))]


def test_without_a_limit_the_run_waits():
    run = Run(config=replace(CONFIG, end_seconds=None))
    run.frozen = {2}
    assert [event.kind for _, event in run.seconds(5000)] == ["silent"]


def test_a_store_that_does_not_answer_names_its_host_and_nobody_who_cannot_be_heard():
    run = Run(store_host=0)
    run.seconds(10)
    run.store_answers, run.frozen = False, {0, 2}
    assert run.seconds(60) == [(31, Event("silent", [0], 21))]
    run.store_answers = True
    assert run.seconds(15) == [(71, Event("answers", [0], 61))]
    assert [event for _, event in run.seconds(100)] == [Event("silent", [0, 2], 21)], (
        "who is still silent then is named"
    )


def test_the_launchers_store_is_no_ranks_fault():
    run = Run(store_host=None)
    run.seconds(10)
    run.store_answers = False
    assert run.seconds(601) == [(31, Event("silent", [], 21)), (611, Event("end", [], 601))]


def test_a_rank_that_has_left_is_not_missed():
    run = Run()
    run.seconds(5)
    run.beats[2] = replace(run.beats[2], is_over=True)
    run.frozen = {2}
    run.own = replace(run.own, phase="finishing")
    assert run.seconds(1000) == []


def test_processes_that_wait_for_each_other_are_told_with_who_is_behind():
    run = Run()
    run.seconds(10)
    run.steps = False
    run.own = replace(run.own, phase="waiting for data")
    assert run.seconds(700) == [(312, Event("stalled", [1], 301)), (612, Event("end", [], 601))]
    run.steps = True
    assert [event.kind for _, event in run.seconds(3)] == ["moves"]


def test_long_steps_evaluations_saves_and_a_first_step_are_no_hangs():
    slow = Run()
    slow.steps, slow.longest = False, 100.0
    assert slow.seconds(999) == []
    for phase in ("evaluating", "saving", "starting", "finishing"):
        busy = Run()
        busy.steps, busy.own = False, replace(busy.own, phase=phase)
        assert busy.seconds(5000) == [], phase
    first = Run()
    first.steps, first.longest = False, 0.0
    assert [event.kind for _, event in first.seconds(5000)] == ["stalled"], "said, but a first step may compile"


def test_one_process_is_told_that_it_stands_still_and_goes_on():
    judge = HangJudge(CONFIG, 0, 1, None)
    own = Beat(0, 5, "in a step", "host", 1)
    found = [event for second in range(2000) for event in judge.judge(float(second), own, {}, 0, 1.0)]
    assert found == [Event("stalled", [0], 301)]


def test_who_is_behind():
    def beats(*places: tuple[int, str]) -> dict[int, Beat]:
        return {rank: Beat(0, step, phase, "", 0) for rank, (step, phase) in enumerate(places)}

    step, data = "in a step", "waiting for data"
    assert behind(beats((5, step), (4, step), (5, step))) == [1]
    assert behind(beats((5, step), (5, data), (5, step))) == [1]
    assert behind(beats((5, step), (5, data))) == [1]
    assert behind(beats((5, step), (5, step))) == [0, 1]
