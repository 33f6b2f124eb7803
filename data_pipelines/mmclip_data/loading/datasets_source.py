"""Training straight from a Hugging Face `datasets` dataset: Parquet, Arrow, CSV of paths, folders of pictures, or a name.

The library finds the files and gives random access to rows; pictures stay bytes and are decoded here like all others.
It runs no code of a data set: what is not data files is refused.
"""

import contextlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import BadSampleError, MachineError, UserError
from mmclip_data.pipelines.columns import CAPTION_NAMES, LABEL_NAMES, NUMBERED, PICTURE_NAMES, choose, listed

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
ROWS_IN_SHARD = 256
"""Rows that the order moves together: enough to read neighbours, few enough to mix a set that is sorted by class."""
ROWS_AT_ONCE = 4096


@config
class DatasetsConfig:
    """A `datasets` dataset with a column of pictures and one or more of captions (extra `hf`)."""

    type: Literal["datasets"] = "datasets"
    path: str
    """A folder (saved by `datasets`, or of data files or pictures), a Parquet, CSV, JSON or Arrow file, or a Hub name."""
    name: str = ""
    """First part of every sample's identity; by default the last part of `path`."""
    config: str | None = None
    """Which configuration of a data set that has several."""
    split: str = "train"
    """Which split."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub."""
    image_column: str | None = None
    """The column of pictures, their bytes or their paths; by default the one of `datasets`' type Image, or of a usual name."""
    caption_columns: tuple[str, ...] = ()
    """Columns of texts, lists of texts or classes; a column is drawn, then one of its texts. By default of a usual name."""
    image_folder: str | None = None
    """Where relative paths of pictures begin; by default beside the file that names them."""
    cache_folder: str | None = None
    """Where `datasets` keeps what it has prepared; by default its own place."""

    def build(self, extensions: Collection[str]) -> "HFDataset":
        """Open the dataset; its columns take the place of members, and where none is asked for captions are none."""
        return HFDataset(self, with_captions=bool(extensions))


class HFDataset:
    """Rows as samples: a picture under `jpg`, whatever its format, and its captions, if wanted, by column in `json`.

    Raises:
        UserError: the package, the dataset, the split or a column is not there.
    """

    def __init__(self, config: DatasetsConfig, with_captions: bool = True) -> None:
        path = Path(config.path)
        self.name = config.name or path.stem
        self.split = config.split
        self.where = f"data.source.path={config.path!r}"
        self.folder = Path(config.image_folder) if config.image_folder else path.parent if path.is_file() else path
        dataset = open_split(config, self.where)
        if not len(dataset):
            raise UserError(f"{self.where}: split {config.split!r} has no rows")
        features = dataset.features
        images = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
        asked = config.image_column or (images[0] if images else None)
        named = choose("data.source.image_column", asked, list(features), PICTURE_NAMES, self.where)
        assert named is not None, "a required column is found or refused"
        self.image_column = named
        self.caption_columns = _caption_columns(config, features, named, self.where) if with_captions else ()
        self._names = {
            column: _class_names(features[column])
            for column in self.caption_columns
            if _class_names(features[column]) is not None
        }
        if type(features[named]).__name__ == "Image":
            dataset = dataset.cast_column(named, type(features[named])(decode=False))
        self._rows = self._cells = dataset.select_columns([named, *self.caption_columns])
        self._fingerprint = ""

    @property
    def caption_fields(self) -> tuple[str, ...]:
        """Caption fields in the words of `data.captions`."""
        return tuple(f"json:{column}" for column in self.caption_columns)

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        whole, rest = divmod(len(self._rows), ROWS_IN_SHARD)
        return np.array([ROWS_IN_SHARD] * whole + [rest] * bool(rest), dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """Of all captions and of the size of each picture, in order: contents, wherever the library keeps them.

        The bytes of the pictures are not read for it: one that is replaced by another of its size goes unnoticed.
        """
        self._fingerprint = self._fingerprint or self._hash()
        return self._fingerprint

    def sample_id(self, shard: int, row: int) -> str:
        return f"{self.name}/{self.split}/{shard * ROWS_IN_SHARD + row:09d}"

    def leave_pictures(self) -> None:
        self._cells = self._rows.select_columns([*self.caption_columns])

    def read(self, shard: int, row: int) -> dict[str, Any]:
        number = shard * ROWS_IN_SHARD + row
        cells = self._cells[number]
        there = self.image_column in cells
        picture = {"jpg": self._picture(cells[self.image_column], number)} if there else {}
        captions = {column: self._texts(column, cells[column]) for column in self.caption_columns}
        return {
            "__key__": f"{number:09d}",
            "__url__": f"datasets:{self.name}/{self.split}",
            **picture,
            **({"json": json.dumps(captions).encode()} if captions else {}),
        }

    def _picture(self, cell: Any, number: int) -> bytes:
        try:
            return picture_in(cell, self.folder, self.image_column)
        except BadSampleError as error:
            raise BadSampleError(f"row {number}: {error}") from error

    def _texts(self, column: str, cell: Any) -> Any:
        names = self._names.get(column)
        if names is None or cell is None:
            return cell
        return [names[number] for number in (cell if isinstance(cell, list) else [cell]) if 0 <= number < len(names)]

    def _hash(self) -> str:
        facts = [self.image_column, len(self._rows), self._names, [*self.caption_columns]]
        digest = xxhash.xxh3_128(repr(facts).encode())
        texts = self._rows.select_columns(list(self.caption_columns)) if self.caption_columns else ()
        for start in range(0, len(texts), ROWS_AT_ONCE):
            digest.update(repr(texts[start : start + ROWS_AT_ONCE]).encode(errors="backslashreplace"))
        for sizes in self._picture_sizes():
            digest.update(sizes.astype("<i8").tobytes())
        return digest.hexdigest()

    def _picture_sizes(self) -> Iterator[NDArray[np.int64]]:
        """Bytes of each picture, -1 where there is none; from Arrow's own offsets, without the pictures themselves."""
        pictures = self._rows.select_columns([self.image_column]).with_format("arrow")
        for start in range(0, len(self._rows), ROWS_AT_ONCE):
            column = pictures[start : start + ROWS_AT_ONCE].column(0).combine_chunks()
            fields = [field.name for field in column.type] if str(column.type).startswith("struct") else []
            stored = column.field("bytes") if "bytes" in fields else column
            paths = column.field("path") if "path" in fields else column
            sizes = np.full(len(column), -1, dtype=np.int64)
            is_stored = np.zeros(len(column), dtype=bool)
            if str(stored.type) in ("binary", "large_binary"):
                is_stored = ~np.asarray(stored.is_null())
                width = np.int64 if str(stored.type) == "large_binary" else np.int32
                offsets = np.frombuffer(stored.buffers()[1], width)[stored.offset : stored.offset + len(stored) + 1]
                sizes[is_stored] = np.diff(offsets)[is_stored]
            for row in np.flatnonzero(~is_stored).tolist():
                sizes[row] = self._file_size(
                    paths[row].as_py() if str(paths.type) in ("string", "large_string") else None
                )
            yield sizes

    def _file_size(self, path: str | None) -> int:
        place = self.folder / path if path and "://" not in path else None
        return place.stat().st_size if place is not None and place.is_file() else -1


def cell_of(cell: Any) -> tuple[bytes | None, str]:
    """The bytes of a picture and its path, of which `datasets` stores either or both."""
    if isinstance(cell, Mapping):
        content = cell.get("bytes")
        return content if isinstance(content, bytes) else None, cell.get("path") or ""
    return (cell, "") if isinstance(cell, bytes) else (None, cell.strip() if isinstance(cell, str) else "")


def picture_in(cell: Any, folder: Path, column: str) -> bytes:
    """The bytes of a picture; paths in a cell are relative to `folder`.

    Raises:
        BadSampleError: there is none, or no such file.
        OSError: the file cannot be read, though it is there.
    """
    content, path = cell_of(cell)
    if content is not None:
        return content
    if not path:
        raise BadSampleError(f"no picture in column {column!r}")
    if "://" in path:
        raise BadSampleError(f"column {column!r} holds a URL, expected a picture: download it first")
    try:
        return (folder / path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadSampleError(f"picture {folder / path}: {error.strerror}") from error


def _caption_columns(
    config: DatasetsConfig, features: Mapping[str, Any], image_column: str, where: str
) -> tuple[str, ...]:
    rest = [column for column in features if column != image_column]
    if config.caption_columns:
        chosen = [choose("data.source.caption_columns", name, rest, (), where) for name in config.caption_columns]
    else:
        texts = [column for column in rest if _is_text(features[column])]
        classes = [column for column in rest if _class_names(features[column]) is not None]
        numbered = [column for column in texts if NUMBERED.match(column)]
        usual = choose("caption", None, texts, CAPTION_NAMES, where, required=False)
        label = choose("label", None, classes, LABEL_NAMES, where, required=False)
        chosen = [usual] if usual else numbered or ([label] if label else classes[:1])
    columns = tuple(column for column in chosen if column is not None)
    if not columns:
        raise UserError(
            f"{where}: none of its columns {listed(list(features))} looks like captions: expected texts under a name such "
            f"as {', '.join(CAPTION_NAMES[:3])}, or a class label; name them in data.source.caption_columns"
        )
    dotted = [column for column in columns if "." in column]
    if dotted:
        raise UserError(f"{where}: the caption column {dotted[0]!r} has a dot in its name; rename it in the dataset")
    return columns


def _is_text(feature: Any) -> bool:
    """A text or a list of texts."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _class_names(feature: Any) -> Sequence[str] | None:
    """The names of a class label, or of a list of them; None of anything else."""
    inner = getattr(feature, "feature", feature)
    return tuple(inner.names) if type(inner).__name__ == "ClassLabel" and inner.names else None


def open_split(config: DatasetsConfig, where: str) -> Any:
    """The rows of a split, as `datasets` has them; `where` opens each message.

    Raises:
        UserError: the package is missing, or there is no such dataset, configuration or split.
        MachineError: the Hub cannot be reached.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(f'{where}: reading a dataset needs the package datasets: pip install "mmclip[hf]"') from error
    path = Path(config.path)
    if not path.exists() and (path.is_absolute() or config.path.startswith((".", "~")) or config.path.count("/") > 1):
        raise UserError(f"{where}: no such file or folder; `~` is not expanded")
    options: dict[str, Any] = {"split": config.split, "cache_dir": config.cache_folder}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars, of every rank
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                return _split_of(datasets.load_from_disk(str(path)), config.split, where)
            if path.is_file():
                options |= {"data_files": {config.split: str(path)}, **_more(path)}
                return datasets.load_dataset(_builder(path, where), **options)
            tars = _tars(path, config.split)
            if tars:
                return datasets.load_dataset("webdataset", data_files={config.split: tars}, **options)
            return datasets.load_dataset(config.path, config.config, revision=config.revision, **options)
    except UserError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise MachineError(f"{where}: not on this machine, and the Hub cannot be reached: {_line(error)}") from error
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        raise UserError(f"{where}: `datasets` {datasets.__version__} cannot open it: {_line(error)}") from error


def _tars(folder: Path, split: str) -> list[str]:
    """The shards of a split; `datasets` itself would open the texts beside them in their place."""
    own = sorted(folder.glob("*.tar")) or sorted((folder / split).glob("*.tar"))
    return [str(tar) for tar in sorted(own, key=lambda tar: (len(tar.name), tar.name))]


def _split_of(loaded: Any, split: str, where: str) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if split not in loaded:
        raise UserError(f"{where}: no split {split!r}; it has {', '.join(map(repr, loaded))}: set the split")
    return loaded[split]


def _builder(path: Path, where: str) -> str:
    if path.suffix.lower() not in BUILDERS:
        raise UserError(
            f"{where}: ends in {path.suffix or 'nothing'}, expected one of {', '.join(BUILDERS)}, or a folder"
        )
    return BUILDERS[path.suffix.lower()]


def _more(path: Path) -> dict[str, str]:
    return {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
