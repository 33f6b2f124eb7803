"""open_clip's flags as data, and the parser made from them: abbreviations, `--flag=value` and all, as argparse has it."""

import argparse
import ast
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NoReturn

from mmclip.errors import UserError
from mmclip.near import nearest

OPEN_CLIP = "3.3.0"
"""The version whose flags `flags.toml` holds."""

TYPES = {"text": str, "whole": int, "number": float, "numbers": float, "wholes": int}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of open_clip's trainer and what becomes of it; see the head of `flags.toml`."""

    kind: Literal["text", "whole", "number", "switch", "numbers", "wholes", "pairs"]
    status: Literal["mapped", "not needed", "not yet"]
    note: str
    field: str = ""
    effect: Literal["none", "loud", "refused"] = "none"
    default: Any = None
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def value_by_default(self) -> Any:
        """What open_clip's parser gives when the flag is absent."""
        return {"switch": False, "pairs": {}}.get(self.kind, self.default)


@cache
def flags() -> dict[str, Flag]:
    """All flags by name, without dashes, in open_clip's order."""
    table = tomllib.loads((files("mmclip_launch.import_flags") / "flags.toml").read_text(encoding="utf-8"))
    return {name: Flag(**entry | {"choices": tuple(entry.get("choices", ()))}) for name, entry in table.items()}


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by name without dashes, each as the type that open_clip reads.

    Raises:
        UserError: a flag is unknown (the nearest is named) or ambiguous, or its value cannot be read.
    """
    parser = _Parser(prog="open_clip", add_help=False, argument_default=argparse.SUPPRESS)
    for name, flag in flags().items():
        _add(parser, name, flag)
    found, others = parser.parse_known_args(list(words))
    _refuse(others)
    return {name.replace("_", "-"): value for name, value in vars(found).items()}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # A shell variable is the usual reason for a number that is none: nothing here runs a shell.
        hint = "; shell variables are not filled in: write the value" if "$" in message else ""
        raise UserError(f"open_clip's command line: {message}{hint}")


class _Pairs(argparse.Action):
    """`key=value` words, with Python's literals, as open_clip reads them."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        pairs = {}
        for word in values:
            key, equals, value = word.partition("=")
            if not equals:
                raise argparse.ArgumentError(self, f"expected key=value, got {word!r}")
            try:
                pairs[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                pairs[key] = value
        setattr(namespace, self.dest, pairs)


def _add(parser: argparse.ArgumentParser, name: str, flag: Flag) -> None:
    if flag.kind == "switch":
        parser.add_argument(f"--{name}", action="store_true")
    elif flag.kind == "pairs":
        parser.add_argument(f"--{name}", nargs="*", action=_Pairs)
    else:
        choices = flag.choices or None
        parser.add_argument(f"--{name}", type=TYPES[flag.kind], nargs="+" if flag.many else None, choices=choices)


def _refuse(others: Sequence[str]) -> None:
    unknown = [word.partition("=")[0] for word in others if word.startswith("-")]
    known = [f"--{name}" for name in flags()]
    for word in unknown:
        near = nearest(word.replace("_", "-"), known)
        guess = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"{word} is no flag of open_clip {OPEN_CLIP}'s trainer{guess}")
    if others:
        raise UserError(
            f"words that belong to no flag: {' '.join(others[:5])}; quote patterns, or the shell expands them before mmclip"
        )
