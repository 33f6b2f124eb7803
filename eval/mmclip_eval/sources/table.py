"""The form `table`: a CSV, TSV, JSONL or Parquet file with a column of paths of pictures, as open_clip's CSV.

Every column is a key of the member `json`; the captions are `txt` too, a line each, and the class is `cls`. Rows of one
picture are one sample with all of their captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip_data.pipelines.columns import LABEL_NAMES, NUMBERED_PICTURES, PICTURE_NAMES, choose, choose_captions
from mmclip_data.pipelines.pairs import texts_of
from mmclip_data.pipelines.table_rows import BadRow, Row, Table, open_table
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.files import FileSample, FileSamples, Member, picture_member
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.places import picture_folder, picture_path

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Columns:
    """What the columns mean."""

    pictures: tuple[str, ...]
    """One, or several where each row has several pictures."""
    captions: tuple[str, ...]
    label: str | None

    @property
    def members(self) -> tuple[str, ...]:
        """The members of several pictures; none where there is one, whose member is the ending of its file."""
        return self.pictures if len(self.pictures) > 1 else ()


def recognises(config: SourceConfig) -> bool:
    """Whether it is such a file; a Parquet with pictures inside is for `datasets`."""
    path = Path(config.path)
    return path.suffix.lower() in ENDINGS and path.is_file() and not has_pictures_inside(path)


def has_pictures_inside(path: Path) -> bool:
    """Whether a file is a Parquet with the bytes of pictures in one of its columns."""
    if path.suffix.lower() != ".parquet":
        return False
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowInvalid, OSError):
        return False  # what is wrong with it is told when it is read
    usual = [field for field in schema if field.name.strip().lower() in PICTURE_NAMES]
    return any(
        not pyarrow.types.is_string(field.type) and not pyarrow.types.is_large_string(field.type) for field in usual
    )


def open_rows(config: SourceConfig) -> OpenedSamples:
    """Read the rows.

    Raises:
        UserError: the file cannot be read, or the column of pictures cannot be told.
    """
    path = Path(config.path)
    table = open_table(path)
    columns = columns_of(table, config.image_column)
    rows = list(table.rows())
    names = (str(row.cells.get(columns.pictures[0]) or "") for row in rows if isinstance(row, Row))
    root, notes = picture_folder(config, (name for name in names if name))
    groups = _joined(rows, columns)
    if len(groups) < len(rows):
        notes += (f"rows of one picture are one sample: {len(groups)} samples in {len(rows)} rows",)
    makes = _Makes(path.name, root, columns, groups)
    declared = Declared(
        dataset_type="image_caption_selection" if columns.members and len(columns.captions) > 1 else None,
        captions=tuple(f"json:{name}" for name in columns.captions) or ("txt",),
        pictures=columns.members,
        notes=notes,
    )
    return OpenedSamples(FileSamples(config.name, len(groups), makes), declared)


def columns_of(table: Table, image_column: str | None) -> Columns:
    """What each column means, by its name.

    Raises:
        UserError: none has a name that says picture.
    """
    where, names = str(table.path), table.columns
    numbered = tuple(name for name in names if NUMBERED_PICTURES.fullmatch(name))
    if image_column is None and len(numbered) > 1:
        pictures = numbered
    else:
        chosen = choose("image_column", image_column, names, PICTURE_NAMES, where)
        assert chosen is not None, "a required column is found or refused"
        pictures = (chosen,)
    rest = [name for name in names if name not in pictures]
    captions = choose_captions((), rest, [name for name in rest if "." not in name], where, required=False)
    label = choose("label", None, [name for name in rest if name not in captions], LABEL_NAMES, where, required=False)
    return Columns(pictures, captions, label)


@dataclass(frozen=True)
class _Makes:
    """Makes a sample of the rows of one picture."""

    file: str
    root: Path
    columns: Columns
    groups: Sequence[Sequence[Row | BadRow]]

    def __call__(self, index: int) -> FileSample:
        rows = self.groups[index]
        first = rows[0]
        line = f"{self.file}:{first.line}"
        if isinstance(first, BadRow):
            return FileSample(line, bad=f"cannot be read: {first.reason}: {first.detail}")
        names = [first.cells.get(column) for column in self.columns.pictures]
        cells = _together([row.cells for row in rows if isinstance(row, Row)])
        bad = next(filter(None, map(_problem, names)), "")
        if bad:
            return FileSample(line, bad=bad)
        paths = [picture_path(self.root, str(name).strip()) for name in names]
        members = self.columns.members or (picture_member(paths[0]),)
        # The line tells rows apart that share a picture and were not joined.
        return FileSample(line, dict(zip(members, paths, strict=True)), self._members(cells))

    def _members(self, cells: Mapping[str, Any]) -> dict[str, Member]:
        captions = [text for column in self.columns.captions for text in texts_of(cells.get(column))]
        label = cells.get(self.columns.label) if self.columns.label else None
        found: dict[str, Member] = {"json": cells}
        if captions:
            found["txt"] = "\n".join(" ".join(text.split()) for text in captions).encode(errors="surrogatepass")
        if isinstance(label, str | int) and not isinstance(label, bool) and str(label).strip():
            found["cls"] = str(label).encode(errors="surrogatepass")
        return found


def _problem(name: Any) -> str:
    """Why a cell names no picture; empty where it does."""
    if not isinstance(name, str) or not name.strip():
        return "has no picture: its cell is empty"
    return f"has no picture: {name:.80} is a URL; download it first, such as with img2dataset" if "://" in name else ""


def _joined(rows: Sequence[Row | BadRow], columns: Columns) -> list[list[Row | BadRow]]:
    """The rows of each sample: where there are captions, those of one picture (and one class) belong together."""
    if not columns.captions or columns.members:
        return [[row] for row in rows]
    groups: dict[Any, list[Row | BadRow]] = {}
    for number, row in enumerate(rows):
        name = row.cells.get(columns.pictures[0]) if isinstance(row, Row) else None
        label = row.cells.get(columns.label) if isinstance(row, Row) and columns.label else None
        groups.setdefault((name, repr(label)) if isinstance(name, str) and name.strip() else number, []).append(row)
    return list(groups.values())


def _together(cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One row of several: what differs among them becomes a list, in their order."""
    if len(cells) == 1:
        return cells[0]
    found: dict[str, Any] = {}
    for column in cells[0]:
        values = [row.get(column) for row in cells]
        same = all(value == values[0] for value in values)
        flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
        found[column] = values[0] if same else flat
    return found


FORM = Form(
    "table",
    f"a table with a column of paths of pictures ({', '.join(ENDINGS)}), such as open_clip's with filepath and title",
    recognises,
    open_rows,
    options=("image_column", "image_folder"),
)
