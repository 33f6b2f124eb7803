"""`Failures`: what went wrong with some of many evaluations, told at the end, when nothing more can be lost by it."""

from dataclasses import dataclass
from typing import NoReturn

from mmclip.errors import MachineError, UserError
from mmclip_launch.faults import EXIT_FAULT, EXIT_MACHINE, describe
from mmclip_launch.screen import Screen


class EvaluationsFailed(RuntimeError):
    """Some evaluations failed for reasons of ours."""


@dataclass(frozen=True)
class Failure:
    """One evaluation that came to nothing."""

    what: str
    error: Exception


class Failures:
    """Notes them as they happen; `settle` ends the command."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._found: list[Failure] = []

    def note(self, what: str, error: Exception) -> None:
        """Say that an evaluation failed, and go on."""
        self._found.append(Failure(what, error))
        self._screen.warn(f"{what}: {describe(error).message}")

    def settle(self) -> None:
        """Raise if there was any failure: its kind is that of the worst."""
        if self._found:
            self._raise()

    def _raise(self) -> NoReturn:
        lines = [f"{failure.what}: {describe(failure.error).message}" for failure in self._found]
        count = f"{len(lines)} evaluation{'s' * (len(lines) > 1)} failed"
        text = "\n".join([f"{count}; the results of all others are written:", *lines])
        codes = {describe(failure.error).code: failure.error for failure in self._found}
        if EXIT_FAULT in codes:
            raise EvaluationsFailed(text) from codes[EXIT_FAULT]
        raise (MachineError(text) if EXIT_MACHINE in codes else UserError(text))
