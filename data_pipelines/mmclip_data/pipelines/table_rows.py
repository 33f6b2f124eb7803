"""Rows of a CSV, TSV, JSONL or Parquet file, one after another, none of them lost: a bad one is a row with a reason."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mmclip.errors import UserError
from mmclip_data.pipelines.columns import CAPTION_NAMES, PICTURE_NAMES

SEPARATORS = ("\t", ",", ";", "|")
"""The first is open_clip's."""
MAX_FIELD_BYTES = 16 << 20
HINT = "reading Parquet needs pyarrow: pip install 'mmclip[hf]'"


class Row(NamedTuple):
    """Cells by column; `line` is where the row begins in its file, the first below a header of one line being 2."""

    line: int
    cells: Mapping[str, Any]


class BadRow(NamedTuple):
    """A row that cannot be understood."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A table on disk that can be read from its start as often as needed."""

    path: Path
    columns: list[str]
    rows: Callable[[], Iterator[Row | BadRow]]
    separator: str | None = None
    known_length: int | None = None

    def __len__(self) -> int:
        """The number of rows, bad ones too; where the file does not say it, they are counted."""
        return sum(1 for _ in self.rows()) if self.known_length is None else self.known_length

    @property
    def fingerprint(self) -> str:
        """Of the file's bytes."""
        digest = xxhash.xxh3_128()
        with self.path.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def open_table(path: Path, separator: str | None = None, quotes: bool = True) -> Table:
    """The table at `path`, its kind told by its ending.

    Raises:
        UserError: no such file, an ending that is none of ours, or no header.
    """
    if not path.is_file():
        raise UserError(f"source={path}: no such file; expected a .csv, .tsv, .jsonl or .parquet")
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv", ".txt"):
        return _delimited(path, "\t" if kind == ".tsv" and separator is None else separator, quotes)
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if kind == ".parquet":
        return _parquet(path)
    raise UserError(f"source={path}: ends in {kind or 'nothing'}, expected .csv, .tsv, .jsonl or .parquet")


def _delimited(path: Path, separator: str | None, quotes: bool) -> Table:
    csv.field_size_limit(MAX_FIELD_BYTES)
    with _text(path) as handle:
        first = handle.readline().rstrip("\r\n")
    if not first.strip():
        raise UserError(f"source={path}: its first line is empty, expected the names of the columns")
    separator = separator or max(SEPARATORS, key=lambda candidate: _score(first, candidate, quotes))
    if len(separator) != 1:
        raise UserError(f"separator={separator!r}: expected one character")

    def reader(handle: Any) -> Any:
        quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        # strict: a quotation mark that is never closed would otherwise swallow all rows behind it in silence.
        return csv.reader(handle, delimiter=separator, quoting=quoting, strict=True)

    with _text(path) as handle:
        header = next(reader(handle))
    if len(set(header)) != len(header):
        raise UserError(f"source={path}: a column is named twice in {header}; expected names that differ")

    def rows() -> Iterator[Row | BadRow]:
        with _text(path) as handle:
            source = reader(handle)
            next(source)
            line = source.line_num + 1
            try:
                for cells in source:
                    if len(cells) == len(header):
                        yield Row(line, dict(zip(header, cells, strict=True)))
                    elif cells:
                        detail = f"{len(cells)} fields, the header has {len(header)}"
                        yield BadRow(line, "row has another number of fields than the header", detail)
                    line = source.line_num + 1
            except csv.Error as error:
                raise UserError(
                    f"source={path}: line {line}: {error}; a quotation mark there is not closed, or not doubled within "
                    "quotes: mend it, or read quotation marks as characters with --no_quotes"
                ) from error

    return Table(path, header, rows, separator)


def _text(path: Path) -> Any:
    """Bytes that are not UTF-8 stay visible as lone surrogates, so that only their own row is bad."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _score(header: str, separator: str, quotes: bool) -> tuple[int, int]:
    """How well the header reads with this separator: known names first, then the number of columns."""
    cells = next(csv.reader([header], delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE))
    known = {*PICTURE_NAMES, *CAPTION_NAMES}
    return sum(cell.strip().lower() in known for cell in cells), len(cells)


def _json_lines(path: Path) -> Table:
    def rows() -> Iterator[Row | BadRow]:
        with path.open("rb") as handle:
            for line, raw in enumerate(handle, start=1):
                if not raw.strip():
                    continue
                try:
                    cells = json.loads(raw)
                except (ValueError, RecursionError) as error:
                    yield BadRow(line, "line is not JSON", str(error))
                    continue
                if isinstance(cells, dict):
                    yield Row(line, cells)
                else:
                    yield BadRow(line, "line is not a JSON object", type(cells).__name__)

    first = next((row for row in rows() if isinstance(row, Row)), None)
    if first is None:
        raise UserError(f"source={path}: no line of it is a JSON object")
    return Table(path, list(first.cells), rows)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"source={path}: {HINT}") from error
    try:
        with parquet.ParquetFile(path) as file:
            columns, length = file.schema_arrow.names, file.metadata.num_rows
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"source={path}: not a Parquet file ({error})") from error

    def rows() -> Iterator[Row | BadRow]:
        line = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for cells in batch.to_pylist():
                    yield Row(line, cells)
                    line += 1

    return Table(path, columns, rows, known_length=length)
