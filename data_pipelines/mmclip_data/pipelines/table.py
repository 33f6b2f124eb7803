"""A table of picture files and captions (CSV, TSV, JSONL, Parquet) to shards; the pictures' own bytes are kept.

    mmclip shards make table --source captions.csv --output data/mine

Columns are open_clip's `filepath` and `title`, or guessed from their names, or given. Relative paths count from the
table's folder. Every other column goes into the sample's `json`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.columns import PICTURE_NAMES, choose, choose_captions
from mmclip_data.pipelines.job import Dropped, Job, JobReport, Outcome, Track, quiet, write_shards
from mmclip_data.pipelines.job.writing import settings_of
from mmclip_data.pipelines.layout import write_lines
from mmclip_data.pipelines.pairs import Pair, outcome, picture_of_cell, texts_of
from mmclip_data.pipelines.table_rows import BadRow, Row, Table, open_table

ROWS_IN_PIECE = 64


@config
class TableConfig:
    """A CSV, TSV, JSONL or Parquet table of paths and captions to shards."""

    source: Path
    """The table; its ending says the kind: .csv, .tsv, .jsonl, .parquet."""
    output: Path
    """Folder to write; the shards go into its `train/` or `test/`."""
    image_column: str | None = None
    """Column of the picture: a path, or its bytes in Parquet; default: guessed, `filepath` first."""
    caption_columns: tuple[str, ...] = ()
    """Columns with captions, texts or lists of texts; default: one is guessed, `title` first."""
    separator: str | None = None
    """Of CSV: a tab as in open_clip, a comma, a semicolon or a bar; default: told from the header."""
    quotes: bool = True
    """Of CSV: whether a field may be quoted; without, a quotation mark is a character like others."""
    image_root: Path | None = None
    """Where relative paths start; default: the table's folder."""
    split: Literal["train", "test"] = "train"
    """The split to write."""
    decode: bool = True
    """Decode every picture once, and drop those that training could not read."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    workers: int | None = None
    """Processes; default: one for each core. Changes no byte of the output."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


@dataclass(frozen=True)
class _Rows:
    """The work on a piece of the table; travels to each process once."""

    image_column: str
    caption_columns: tuple[str, ...]
    root: Path
    source: str
    decode: bool

    def __call__(self, rows: list[Row | BadRow]) -> list[Outcome]:
        return [outcome(self._pair(row), self.decode) for row in rows]

    def _pair(self, row: Row | BadRow) -> Pair:
        name = f"{self.source}:{row.line}"
        if isinstance(row, BadRow):
            return Pair(name, Dropped(name, row.reason, row.detail), (), {})
        captions = [text for column in self.caption_columns for text in texts_of(row.cells.get(column))]
        picture, path = picture_of_cell(name, row.cells.get(self.image_column), self.root)
        facts = {column: value for column, value in row.cells.items() if column not in self.caption_columns}
        facts.pop(self.image_column, None)
        if path:
            facts = {self.image_column: path} | facts
        return Pair(name, picture, tuple(captions), facts)


@dataclass(frozen=True)
class _Pieces:
    table: Table
    total: int

    def __len__(self) -> int:
        return self.total

    def pieces(self, start: int) -> Iterator[list[Row | BadRow]]:
        piece: list[Row | BadRow] = []
        for number, row in enumerate(self.table.rows()):
            if number < start:
                continue
            piece.append(row)
            if len(piece) == ROWS_IN_PIECE:
                yield piece
                piece = []
        if piece:
            yield piece


def make_table(config: TableConfig, track: Track = quiet) -> JobReport:
    """Write every row that has a readable picture and a caption, in the order of the table; name every other row.

    Raises:
        UserError: no such table, a column that cannot be told, no usable row, or an output of another job.
    """
    table = open_table(config.source, config.separator, config.quotes)
    where = f"source={config.source}"
    image_column = choose("image_column", config.image_column, table.columns, PICTURE_NAMES, where)
    rest = [column for column in table.columns if column != image_column]
    captions = choose_captions(config.caption_columns, rest, rest, where)
    assert image_column is not None
    total = len(table)
    if not total:
        raise UserError(f"{where}: a header ({', '.join(table.columns)}) and no row below it")
    work = _Rows(image_column, captions, config.image_root or config.source.parent, config.source.name, config.decode)
    without = ("source", "image_root", "separator", "image_column", "caption_columns")
    settings = settings_of(config, without) | {
        "image_column": image_column,
        "caption_columns": list(captions),
        "separator": table.separator,
    }
    written = write_shards(
        Job("make table", settings, table.fingerprint),
        _Pieces(table, total),
        work,
        config.output / config.split,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers,
        overwrite=config.overwrite,
        track=track,
    )
    write_lines(config.output / "dataset_type.txt", ["retrieval"])
    guessed = [] if config.image_column and config.caption_columns else ["guessed; "]
    how = f"{', '.join(guessed)}picture from {image_column!r}, caption from {', '.join(map(repr, captions))}"
    separator = f", separated by {table.separator!r}" if table.separator else ""
    counts = {"rows": total, f"{config.split} samples": written.num_samples, "shards": len(written.paths)}
    return JobReport(written.folder, counts, written.dropped, [how + separator, *written.notes])
