"""SIGTERM and SIGUSR1 inside one process: who hears them, when they end it, and what is there afterwards."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from mmclip.errors import PreemptedError
from mmclip_launch.launcher import is_training
from mmclip_launch.run.stopping import stop_signals as module
from mmclip_launch.run.stopping.activity import Activity
from mmclip_launch.run.stopping.stop_signals import STOP_SIGNALS, StopRequest, stop_signals


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def request_at_edge(monkeypatch: pytest.MonkeyPatch) -> tuple[StopRequest, Clock, list[str]]:
    left: list[str] = []
    monkeypatch.setattr(module, "leave", left.append)
    clock = Clock()
    request = StopRequest(Activity(clock), clock)
    request.answer = "at the edge"
    return request, clock, left


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_the_first_step_the_run_ends_at_once(number: signal.Signals):
    def run() -> None:
        with stop_signals():
            signal.raise_signal(number)
            pytest.fail("the handler raises")

    with pytest.raises(PreemptedError, match=f"{number.name}: ended starting, where nothing was to be saved"):
        run()
    assert signal.getsignal(number) is signal.SIG_IGN, "the launcher's own SIGTERM comes while this process ends"


def test_during_the_run_the_signal_waits_for_the_edge_and_the_handlers_are_put_back():
    def own(*_: object) -> None: ...

    signal.signal(signal.SIGUSR1, own)
    before = signal.set_wakeup_fd(-1)
    with stop_signals() as request:
        request.answer = "at the edge"
        assert not request.is_told_at("at the edge")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert request.is_told_at("at the edge")
        assert request.why == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) is own
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == before
    assert "stop-signals" not in {thread.name for thread in threading.enumerate()}


def test_what_came_before_the_end_ends_the_run_there():
    def run() -> None:
        with stop_signals() as request:
            request.answer = "at the edge"
            signal.raise_signal(signal.SIGTERM)
            request.end_at_once()

    with pytest.raises(PreemptedError, match="SIGTERM: ended"):
        run()


def test_another_thread_installs_nothing():
    def train() -> None:
        with stop_signals():
            found.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    found: list[object] = []
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL] * 2


def test_a_signal_to_a_peer_is_named_and_ends_a_run_that_has_nothing_to_save():
    def run() -> None:
        with stop_signals() as request:
            reason = 3 * module.SIGNAL_NUMBERS + signal.SIGUSR1
            thread = threading.Thread(target=request.hear_of, args=(reason,))
            thread.start()
            thread.join()
            threading.Event().wait(10)
            pytest.fail("the main thread is interrupted")

    with pytest.raises(PreemptedError, match="SIGUSR1 to rank 3: ended starting"):
        run()


def test_the_same_signal_again_ends_the_process_but_not_when_it_comes_on_two_ways(
    request_at_edge: tuple[StopRequest, Clock, list[str]],
):
    request, clock, left = request_at_edge
    request.hear_of(module.SIGNAL_NUMBERS + signal.SIGTERM)
    clock.now += 20
    request.come(signal.SIGTERM)  # the scheduler to its group
    clock.now += 1
    request.come(signal.SIGTERM)  # and the launcher that it woke
    clock.now += 20
    request.come(signal.SIGUSR1)
    assert left == []
    request.come(signal.SIGTERM)
    assert left == [f"SIGTERM again, still starting: {module.WITHOUT_SAVE}"]
    request.answer = "not at all"
    request.come(signal.SIGTERM)
    assert len(left) == 1, "what is saved is saved"


def test_a_step_that_never_ends_is_left_a_save_is_not(request_at_edge: tuple[StopRequest, Clock, list[str]]):
    request, clock, left = request_at_edge
    request.activity.begin("in a step", 4)
    clock.now += 30
    request.activity.begin("waiting for data", 5)
    request.come(signal.SIGTERM)
    clock.now += 4 * 30 - 1
    request.check()
    request.activity.begin("saving")
    clock.now += 1000
    request.check()
    assert left == []
    request.activity.begin("waiting for data")
    request.check()
    assert left == [f"SIGTERM: still waiting for data after step 5 after 1119 s: {module.WITHOUT_SAVE}"]


@pytest.mark.parametrize(
    ("command", "trains"),
    [
        ("python -u -m mmclip_launch.train run.toml", True),
        ("python /usr/bin/mmclip finetune flyp --init x", True),
        ("mmclip eval train", False),
        ("python -m mmclip_launch.evaluate runs/train", False),
        ("python -m pytest train", False),
    ],
)
def test_commands_that_train_are_known_before_torch_is_imported(command: str, trains: bool):
    assert is_training(command.split()) == trains
