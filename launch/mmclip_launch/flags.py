"""Flags of a verb: whatever parses them, a wrong one is one message that names the nearest right one."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from mmclip.errors import UserError
from mmclip.near import did_you_mean

T = TypeVar("T")

KINDS = {
    "could not convert string to float": "a number",
    "invalid literal for int() with base 10": "a whole number",
}
FAULT = re.compile(r"(?:^s? for \S+|For further information visit \S+) (.*?) \[type=")
"""What pydantic says of each fault, between the heading or the fault before it and its own type."""
SAYS_WRONG_TYPE = re.compile(rf"({'|'.join(map(re.escape, KINDS))}): (.*)$")


class Arguments(argparse.ArgumentParser):
    """argparse whose refusals are messages like all others, in place of a usage text."""

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            UserError: always; an unknown flag is answered with the nearest known one.
        """
        unknown = message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        reason = f"{unknown}: no such flag" if unknown.startswith("-") else message.replace("argument ", "", 1)
        raise UserError(f"{reason}{did_you_mean(unknown, known, before='; ')}; `{self.prog} --help` lists the flags")


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag whose whole number may not be smaller."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
        return int(text)

    return whole


def parse_config(config_class: type[T], flags: Sequence[str], program: str, **options: Any) -> T:
    """The configuration object that `flags` make, over a `default` among tyro's `options`.

    Raises:
        UserError: a flag is unknown, lacks its value, or has one of the wrong kind.
        SystemExit: the flags ask for help (code 0).
    """
    import tyro

    told = io.StringIO()
    try:
        # tyro draws a box of up to ten lines and exits: the box is read here, and its reason told in one line.
        with contextlib.redirect_stderr(told):
            return tyro.cli(config_class, args=list(flags), prog=program, use_underscores=True, **options)
    except SystemExit as stop:
        if stop.code != 2:
            raise
    raise UserError("\n".join(f"flags: {line}" for line in _reasons(told.getvalue(), program)))


def _reasons(box: str, program: str) -> list[str]:
    """What tyro's box says, one line a fault."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    _heading, *lines = [line for row in plain.splitlines() if (line := row.strip(" │╭╮╰╯"))]
    # Below the heading stand parts between rulers: the reason, wrapped at 80 columns, then what may have been meant.
    parted = "\n".join("\n" if re.fullmatch(r"[─-]+", line) else line for line in lines).strip()
    text, *rest = [" ".join(part.split()) for part in parted.split("\n\n") if part.strip()]
    faults = FAULT.findall(text.partition("validation error")[2])
    if faults:
        return [fault.partition("Value error, ")[2] or fault for fault in faults]
    if text.startswith("Unrecognized options: "):
        word, suggestions = text.removeprefix("Unrecognized options: ").split(", ")[0], " ".join(rest[:-1])
        return [f"{_unknown(word, suggestions)}; `{program} --help` lists them"]
    if text.startswith("Missing from"):
        missing = re.findall(r"(--[\w.]+)", text)
        wrong = [f"{word}: no such flag" for word in re.findall(r"Unrecognized options: (--\S+)", " ".join(rest))]
        return [*wrong, f"{', '.join(missing)}: required, expected a value for each; `{program} --help` tells more"]
    parts = re.match(r"Error parsing (\S+): (.*)", text)
    if parts:
        return [f"{parts[1]}: {_wrong_type(parts[2])}"]
    parts = re.match(r"invalid choice (.*) for argument '(\S+)'\. Expected one of \((.*)\)", text)
    if parts:
        return [f"{parts[2]}: expected one of {parts[3].rstrip(',')}, got {parts[1]}"]
    parts = re.match(r"Missing value for argument '(\S+)'\. Expected (\d+) values", text)
    if parts is None:
        return [text]
    return [f"{parts[1]}: expected {'a value' if parts[2] == '1' else f'{parts[2]} values'} after it, got fewer"]


def _unknown(word: str, suggestions: str) -> str:
    if not word.startswith("-"):
        return f"{word!r}: expected a flag such as --seed 1, got a word that belongs to none"
    near = re.search(r"--[\w.]+", suggestions)
    return f"{word}: no such flag" + (f"; did you mean {near[0]}?" if near else "")


def _wrong_type(why: str) -> str:
    found = SAYS_WRONG_TYPE.search(why)
    return f"expected {KINDS[found[1]]}, got {found[2]}" if found else why
