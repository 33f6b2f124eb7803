"""A run file on its way: fields with the flags that they came from, and everything that must be said beside them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from mmclip_launch.import_flags.command import Command
from mmclip_launch.import_flags.flags import flags

SECTIONS = (
    "", "length", "data", "data.source", "data.augment", "model", "towers", "objective", "optimizer", "schedule",
    "accumulation", "checkpoint", "trackers", "evaluation",
)  # fmt: skip
WIDTH = 120


@dataclass
class Draft:
    """What the groups of flags write into."""

    command: Command
    given: Mapping[str, Any]
    fields: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """By dotted path: the value, and the comment beside it."""
    tables: list[str] = field(default_factory=list)
    """Whole blocks of the file's end, comments included."""
    lost: list[str] = field(default_factory=list)
    """What changes results and is not carried over."""
    refused: list[str] = field(default_factory=list)
    """What makes the run another one, so that no file is written."""
    before: list[str] = field(default_factory=list)
    """Commands and remarks for the time before the first run."""
    others: list[str] = field(default_factory=list)
    """Flags without a field, with the reason."""
    settled: set[str] = field(default_factory=set)
    """Flags that a group has dealt with, whatever their entry in the table says."""

    def __getitem__(self, name: str) -> Any:
        """A flag's value: the given one, else open_clip's default."""
        return self.given.get(name, flags()[name].value_by_default)

    @property
    def processes(self) -> int:
        """Processes of the run; 1 where the command does not say."""
        return self.command.processes or 1

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step."""
        return self["batch-size"] * self.processes * self["accum-freq"]

    def put(self, path: str, value: Any, comment: str = "") -> None:
        """Write a field."""
        self.fields[path] = (value, comment)

    def said(self, *names: str) -> str:
        """Flags as they were given, or that they were not."""
        return ", ".join(
            as_given(name, self.given[name]) if name in self.given else f"--{name} by default" for name in names
        )

    def lose(self, name: str, what: str) -> None:
        """Say loudly that a flag is not carried over."""
        self.settled.add(name)
        self.lost.append(f"{self.said(name)}: {what}")

    def refuse(self, name: str, what: str) -> None:
        """Give up the file because of a flag."""
        self.settled.add(name)
        self.refused.append(f"{self.said(name)}: {what}")


def as_given(name: str, value: Any) -> str:
    """A flag as a person would write it."""
    if value is True:
        return f"--{name}"
    if isinstance(value, Mapping):
        return f"--{name} " + " ".join(f"{key}={entry}" for key, entry in value.items())
    return f"--{name} " + (" ".join(map(str, value)) if isinstance(value, list) else shlex.quote(str(value)))


def render(draft: Draft, start: str) -> str:
    """The run file; `start` is the command that begins the run."""
    head = [f"# {line}".rstrip() for line in _head(draft, start)]
    body = [line for section in SECTIONS for line in _section(draft, section)]
    tail = ["", "# Flags without a field:", *(f"#   {line}" for line in draft.others)] if draft.others else []
    blocks = [line for block in draft.tables for line in ("", *block.splitlines())]
    return "\n".join([*head, *body, *blocks, *tail]) + "\n"


def _head(draft: Draft, start: str) -> list[str]:
    lines = []
    if draft.lost:
        lines += ["NOT carried over:", *(f"  {line}" for line in draft.lost), ""]
    lines += ["From a command line of open_clip, by `mmclip import-flags`."]
    if draft.before:
        lines += ["Before the first run:", *(f"  {line}" for line in draft.before)]
    return [*lines, "To train:", f"  {start}"]


def _section(draft: Draft, section: str) -> list[str]:
    lines: list[str] = []
    for path, (value, comment) in draft.fields.items():
        owner, _, key = path.rpartition(".")
        if owner != section:
            continue
        if isinstance(value, Mapping):
            lines += ["", tomli_w.dumps({owner: {key: value}}).replace(f"[{owner}]\n", "", 1).strip()]
            lines[-1] = f"# {comment}\n{lines[-1]}"
            continue
        line = f"{key} = {toml_value(value)}"
        if not comment:
            lines.append(line)
        elif len(line) + len(comment) + 4 <= WIDTH:
            lines.append(f"{line}  # {comment}")
        else:
            lines += [f"# {comment}", line]
    head = [f"[{section}]"] if section and lines else []
    return ["", *head, *lines] if lines else []


def toml_value(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
