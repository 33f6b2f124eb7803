"""`safe`, `look` or `unsafe`: figures judged by the rules of a file of thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.near import did_you_mean
from mmclip_eval.compare.readings import Better, Reading

Word = Literal["safe", "look", "unsafe"]
ORDER: tuple[Word, ...] = ("safe", "look", "unsafe")
"""From the best to the worst: the worst of all rules is the verdict."""


@config
class Rule:
    """What one figure has to be."""

    figure: str
    """As the report names it."""
    safe: float
    """Reached by the whole 95 % interval, or somebody should look."""
    unsafe: float | None = None
    """Beyond it the switch is refused; None: the figure can only ask for a look."""


@config
class Thresholds:
    """What a file of thresholds holds."""

    rule: tuple[Rule, ...]
    """Each a `[[rule]]` table."""


@dataclass(frozen=True)
class Judged:
    """What a rule says of a figure."""

    rule: Rule
    reading: Reading
    word: Word

    @property
    def reason(self) -> str:
        """In words, for people who see nothing else."""
        side = {"higher": "at least", "lower": "at most", "nearer to 0": "within ±"}[self.reading.better]
        bound = self.rule.unsafe if self.word == "unsafe" else self.rule.safe
        space = "" if side.endswith("±") else " "
        name = f"{self.reading.words} ({self.reading.about})"
        interval = f"{_shown(self.reading.value)} ({_shown(self.reading.low)} to {_shown(self.reading.high)})"
        return f"{name}: {interval}, expected {side}{space}{_shown(bound if bound is not None else 0.0)}"


@dataclass(frozen=True)
class Verdict:
    """The worst that any rule says, with what each of them says."""

    word: Word
    judged: tuple[Judged, ...]
    """The worst first."""
    notes: tuple[str, ...]
    """What kept it from being better, beside the rules."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not better; empty where it is safe."""
        own = [one.reason for one in self.judged if one.word == self.word] if self.word != "safe" else []
        return (*own, *self.notes)


def judge(readings: Sequence[Reading], thresholds: Thresholds, known: Mapping[str, Better]) -> Verdict:
    """Judge every reading that a rule names; a figure that was not measured judges nothing.

    `known` are all figures that there are, and which side of each is better. A verdict needs behaviour: without a set that
    has classes or captions it is `look` at best.

    Raises:
        UserError: a rule names no figure, or its bounds contradict each other.
    """
    for rule in thresholds.rule:
        _check(rule, known)
    judged = [
        Judged(rule, reading, _word(rule, reading))
        for rule in thresholds.rule
        for reading in readings
        if reading.figure == rule.figure
    ]
    judged.sort(key=lambda one: -ORDER.index(one.word))
    notes = _missing(judged)
    words = {one.word for one in judged}
    if notes:
        words.add("look")
    worst: Word = next(word for word in reversed(ORDER) if word in words)
    return Verdict(worst, tuple(judged), notes)


def _word(rule: Rule, reading: Reading) -> Word:
    if rule.unsafe is not None and _worse(_signed(reading, reading.value), rule.unsafe, reading):
        return "unsafe"
    return "look" if _worse(reading.worse_end, rule.safe, reading) else "safe"


def _signed(reading: Reading, value: float) -> float:
    return abs(value) if reading.better == "nearer to 0" else value


def _worse(value: float, bound: float, reading: Reading) -> bool:
    # `not (value >= bound)`: what is no number is worse than any.
    return not value >= bound if reading.better == "higher" else not value <= bound


def _missing(judged: Sequence[Judged]) -> tuple[str, ...]:
    if not judged:
        return ("no rule names a figure that was measured",)
    if all(one.reading.figure.startswith("representation.") for one in judged):
        return ("nothing was asked of the models: only what they represent was compared, not how they act",)
    return ()


def _check(rule: Rule, known: Mapping[str, Better]) -> None:
    if rule.figure not in known:
        guess = did_you_mean(rule.figure, known) or f"expected one of {', '.join(sorted(known))}"
        raise UserError(f"thresholds: rule of {rule.figure!r}, and there is no such figure; {guess}")
    better = known[rule.figure]
    if rule.unsafe is not None and (rule.unsafe > rule.safe) == (better == "higher") and rule.unsafe != rule.safe:
        side = "below" if better == "higher" else "above"
        raise UserError(
            f"thresholds: {rule.figure}: unsafe={rule.unsafe:g} and safe={rule.safe:g}: expected unsafe {side} safe, for "
            f"{better} is better"
        )


def _shown(value: float) -> str:
    return f"{value:.4g}"
