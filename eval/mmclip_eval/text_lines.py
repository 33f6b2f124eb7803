"""Files that hold one class name or one template a line."""

from dataclasses import dataclass
from pathlib import Path

from mmclip.errors import UserError


@dataclass(frozen=True)
class Lines:
    """The lines of a file, stripped of surrounding blanks."""

    lines: tuple[str, ...]
    blank_at_end: int
    """Empty lines that closed the file and were left out."""


def read_lines(path: Path) -> Lines:
    """Read `path`; blank lines at its end are left out and counted, because the line number is the class index.

    Raises:
        UserError: the file is missing, is not UTF-8, or has a blank line before its last text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a text file, one entry a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    kept = len(lines)
    while kept and not lines[kept - 1]:
        kept -= 1
    if "" in lines[:kept]:
        number = lines.index("") + 1
        raise UserError(f"{path}, line {number}: blank line between entries; expected one entry a line: remove it")
    return Lines(lines=tuple(lines[:kept]), blank_at_end=len(lines) - kept if kept else 0)
