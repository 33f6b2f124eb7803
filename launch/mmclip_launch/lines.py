"""Plain lines for terminals of any width and for pipes, where a line is never broken."""

import textwrap

from rich.console import Console


def output_width(console: Console) -> int | None:
    """Columns of the terminal; None where output is a pipe or a file."""
    return console.width if console.is_terminal else None


def wrapped(lead: str, text: str, width: int | None) -> list[str]:
    """`lead` and `text`, broken between words at `width`, with the following lines indented under the first word."""
    if width is None or not text:
        return [(lead + text).rstrip()]
    return textwrap.wrap(
        text,
        max(width, len(lead) + 20),
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
