"""Markdown that cannot be broken by what stands in it: names with bars, backticks and brackets come out as they are."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def escaped(text: str) -> str:
    """`text` as plain words of one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """`text` as a code span, fenced by more backticks than it holds in a row; it may stand in a table."""
    line = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    space = " " if "`" in line or not line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """A table whose cells are Markdown already; the columns in `right` are aligned right."""
    rules = ["---:" if column in right else "---" for column in columns]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rules, *rows))


def front_matter(metadata: Mapping[str, Any]) -> str:
    """The YAML block at the head of a card."""
    return "\n".join(["---", *_yaml(metadata), "---"])


def _yaml(value: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Block style for tables and lists; every text is quoted, so that none reads as a number, a date or a `no`."""
    lines: list[str] = []
    entries = value.items() if isinstance(value, Mapping) else ((None, entry) for entry in value)
    for key, entry in entries:
        head = "-" if key is None else f"{key}:"
        if isinstance(entry, Mapping | list | tuple):
            inner = _yaml(entry)
            if key is None:  # the first line of a list's entry stands beside its dash
                lines += [f"- {inner[0]}", *(f"  {line}" for line in inner[1:])]
            else:
                lines += [head, *(f"  {line}" for line in inner)]
        else:
            lines.append(f"{head} {_scalar(entry)}")
    return lines


def _scalar(value: str | float | int) -> str:
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
    if isinstance(value, float):  # YAML 1.1 reads 5e-05 as a text
        return f"{value:.10f}".rstrip("0") + ("0" if f"{value:.10f}".rstrip("0").endswith(".") else "")
    return json.dumps(value)
