"""Files that hold one class name or one template a line."""

from dataclasses import dataclass
from pathlib import Path

from mmclip.errors import UserError


@dataclass(frozen=True)
class Lines:
    """The lines of a text, stripped of surrounding blanks."""

    lines: tuple[str, ...]
    source: str
    """Where they stand: a file, a URL, a column."""
    blank_at_end: int = 0
    """Empty lines that closed the text and were left out."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out."""
        name = self.source.rpartition("/")[2]
        return (f"{name}: blank lines left out at the end: {self.blank_at_end}",) if self.blank_at_end else ()


def read_lines(path: Path) -> Lines:
    """Read `path`; blank lines at its end are left out and counted, because the line number is the class index.

    Raises:
        UserError: the file is missing, is not UTF-8, or has a blank line before its last text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a text file, one entry a line") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return lines_of(content, str(path))


def lines_of(content: bytes, source: str) -> Lines:
    """`read_lines` of the bytes of a file, which may have come from elsewhere.

    Raises:
        UserError: they are not UTF-8, or there is a blank line before the last text.
    """
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} cannot be read as UTF-8 text: {error}: save the file as UTF-8") from error
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    kept = len(lines)
    while kept and not lines[kept - 1]:
        kept -= 1
    if "" in lines[:kept]:
        number = lines.index("") + 1
        raise UserError(f"{source}, line {number}: blank line between entries; expected one entry a line: remove it")
    return Lines(tuple(lines[:kept]), source, blank_at_end=len(lines) - kept if kept else 0)
