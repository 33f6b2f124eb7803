"""Any data set that Hugging Face's `datasets` opens to shards; the pictures' own bytes are kept.

    mmclip shards make datasets --source pictures/ --output data/pictures          # imagefolder, Parquet, CSV, tars
    mmclip shards make datasets --source nlphuji/flickr30k --output data/flickr30k

Columns are guessed from their types and names, or given. Class labels become `cls` and, where there is no caption, the
caption. Every other column goes into the sample's `json`. Needs the extra: pip install 'mmclip[hf]'.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.columns import LABEL_NAMES, PICTURE_NAMES, choose, choose_captions, listed
from mmclip_data.pipelines.job import Dropped, Job, JobReport, Outcome, Track, quiet, write_shards
from mmclip_data.pipelines.job.report import Tally
from mmclip_data.pipelines.job.writing import settings_of
from mmclip_data.pipelines.layout import checked_templates, write_lines
from mmclip_data.pipelines.pairs import Pair, outcome, picture_of_cell, texts_of

ROWS_IN_PIECE = 64
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "validation", "val", "dev")
HINT = "reading data sets of Hugging Face needs their library: pip install 'mmclip[hf]'"
FILES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".tar": "webdataset",
}


@config
class DatasetsConfig:
    """A data set of the `datasets` library to shards, by its folder, file or name."""

    source: str
    """A local folder or file, or a name on the hub."""
    output: Path
    """Folder to write; the shards go into its `train/` and `test/`."""
    subset: str | None = None
    """The configuration of the data set, where it has several."""
    read_split: str | None = None
    """The split to read; default: its training and its test (or else validation) split."""
    split: Literal["train", "test"] = "train"
    """With `read_split`, or a data set of one split: the split to write."""
    image_column: str | None = None
    """Column of the picture; default: the one whose type is a picture."""
    caption_columns: tuple[str, ...] = ()
    """Columns with captions, texts or lists of texts; default: one is guessed from usual names."""
    label_column: str | None = None
    """Column of the class; default: the one whose type is a class label."""
    templates: tuple[str, ...] = ("a photo of a {c}",)
    """With class labels: the zero-shot templates to write, with {c} for the class name."""
    decode: bool = True
    """Decode every picture once, and drop those that training could not read."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    cache: Path | None = None
    """Where `datasets` keeps what it prepares; default: its own cache."""
    workers: int | None = None
    """Processes; default: one for each core. Changes no byte of the output."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


@dataclass(frozen=True)
class _Columns:
    """Which columns mean what."""

    image: str
    captions: tuple[str, ...]
    label: str | None
    class_names: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        return {"image_column": self.image, "caption_columns": list(self.captions), "label_column": self.label}


@dataclass(frozen=True)
class _Rows:
    """The work on a range of rows; the data set travels to each process once, as the names of its Arrow files."""

    dataset: Any
    columns: _Columns
    name: str
    root: Path
    """Where relative paths of pictures begin."""
    decode: bool

    def __len__(self) -> int:
        return len(self.dataset)

    def pieces(self, start: int) -> Iterator[range]:
        for first in range(start, len(self), ROWS_IN_PIECE):
            yield range(first, min(first + ROWS_IN_PIECE, len(self)))

    def __call__(self, rows: range) -> list[Outcome]:
        table = self.dataset[rows.start : rows.stop]
        return [
            outcome(self._pair(row, {name: cells[place] for name, cells in table.items()}), self.decode)
            for place, row in enumerate(rows)
        ]

    def _pair(self, row: int, cells: Mapping[str, Any]) -> Pair:
        name = f"{self.name}:{row}"
        columns = self.columns
        captions = [text for column in columns.captions for text in texts_of(cells[column])]
        label = cells[columns.label] if columns.label is not None else None
        if columns.label is not None and not (isinstance(label, int) and label >= 0):
            return Pair(name, Dropped(name, "no class label"), (), {})
        if not columns.captions and isinstance(label, int):
            captions = [columns.class_names[label]]
        used = {columns.image, columns.label, *columns.captions}
        facts = {
            column: value for column, value in cells.items() if column not in used and not isinstance(value, bytes)
        }
        picture, _ = picture_of_cell(name, cells[columns.image], self.root)
        return Pair(name, picture, tuple(captions), facts, label)


def make_datasets(config: DatasetsConfig, track: Track = quiet) -> JobReport:
    """Write every row that has a readable picture and a caption or a label, in the order of the data set.

    Raises:
        UserError: `datasets` is not installed or cannot open it, or a column cannot be told.
    """
    templates = checked_templates(config.templates)
    splits = _open(config)
    counts: dict[str, int] = {}
    dropped, notes = Tally(), []
    names: tuple[str, ...] = ()
    for target, (name, dataset) in splits.items():
        where = f"source={config.source!r}, split {name!r}"
        columns = _columns(config, dataset, where)
        if names and columns.class_names != names:
            raise UserError(f"{where}: its classes are not those of the other split")
        names = columns.class_names
        rows = _Rows(_undecoded(dataset, columns), columns, name, _root(Path(config.source)), config.decode)
        unimportant = ("source", "cache", "templates", "image_column", "caption_columns", "label_column")
        job = Job("make datasets", settings_of(config, unimportant) | columns.facts, _fingerprint(rows.dataset))
        written = write_shards(
            job,
            rows,
            rows,
            config.output / target,
            samples_per_shard=config.samples_per_shard,
            workers=config.workers,
            overwrite=config.overwrite,
            track=track,
        )
        counts |= {f"{name} rows": len(rows), f"{target} samples": written.num_samples}
        dropped.join(written.dropped)
        notes = [_told(columns), *written.notes]
    _write_classes(config.output, names, templates)
    return JobReport(config.output, counts, dropped, notes)


def _root(source: Path) -> Path:
    """The folder of a file, or the folder itself, as for a table and for training."""
    return source.parent if source.is_file() else source


def _write_classes(output: Path, names: tuple[str, ...], templates: tuple[str, ...]) -> None:
    if names:
        write_lines(output / "classnames.txt", names)
        write_lines(output / "zeroshot_classification_templates.txt", templates)
    else:
        write_lines(output / "dataset_type.txt", ["retrieval"])


def _told(columns: _Columns) -> str:
    captions = ", ".join(map(repr, columns.captions)) or "the class names"
    label = f", class from {columns.label!r}" if columns.label else ""
    return f"picture from {columns.image!r}, caption from {captions}{label}"


def _open(config: DatasetsConfig) -> dict[str, tuple[str, Any]]:
    """By the split to write: the name of the split that is read, and it.

    Raises:
        UserError: it cannot be opened, or its splits cannot be told apart.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(HINT) from error
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            found = _load(config)
    except (OSError, RuntimeError, DatasetsError) as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"source={config.source!r}: `datasets` cannot open it: {reason}") from error
    if isinstance(found, datasets.Dataset):
        return {config.split: (config.split, found)}
    return _choose_splits(config, found)


def _load(config: DatasetsConfig) -> Any:
    import datasets

    path, cache = Path(config.source), str(config.cache) if config.cache else None
    if any((path / name).is_file() for name in ("dataset_info.json", "state.json", "dataset_dict.json")):
        return datasets.load_from_disk(config.source)
    tars = _tars(path, config.split)
    if tars:
        return datasets.load_dataset("webdataset", data_files=tars, cache_dir=cache)
    if not path.is_file():
        return datasets.load_dataset(config.source, config.subset, cache_dir=cache)
    kind = FILES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"source={config.source}: expected a file that ends in {', '.join(FILES)}")
    options: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    return datasets.load_dataset(kind, data_files=config.source, cache_dir=cache, **options)


def _tars(folder: Path, split: str) -> dict[str, list[str]]:
    """The shards of a folder, or of its folders by split; `datasets` itself would open the files beside them too."""
    found = {name: folder / name for name in (*TRAIN_NAMES, *TEST_NAMES)} | {split: folder / split}
    lists = {
        name: sorted(map(str, place.glob("*.tar")), key=lambda tar: (len(tar), tar)) for name, place in found.items()
    }
    own = sorted(map(str, folder.glob("*.tar")), key=lambda tar: (len(tar), tar))
    return {split: own} if own else {name: tars for name, tars in lists.items() if tars}


def _choose_splits(config: DatasetsConfig, found: Any) -> dict[str, tuple[str, Any]]:
    names = list(found)
    if config.read_split is not None:
        if config.read_split not in found:
            raise UserError(f"read_split={config.read_split!r}: there are {listed(names)}")
        return {config.split: (config.read_split, found[config.read_split])}
    if len(names) == 1:
        return {config.split: (names[0], found[names[0]])}
    chosen = {}
    for target, candidates in (("train", TRAIN_NAMES), ("test", TEST_NAMES)):
        name = next((name for name in candidates if name in found), None)
        if name is not None:
            chosen[target] = (name, found[name])
    if not chosen:
        raise UserError(f"source={config.source!r}: splits {listed(names)}; name the one to read with --read_split")
    return chosen


def _columns(config: DatasetsConfig, dataset: Any, where: str) -> _Columns:
    """What each column means: by its type where that says it, else by its name."""
    import datasets

    features = dataset.features
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    names = list(features)
    asked = config.image_column or (pictures[0] if len(pictures) == 1 else None)
    image = choose("image_column", asked, names, PICTURE_NAMES, where)
    assert image is not None
    rest = [name for name in names if name != image]
    numbers = [name for name in rest if str(getattr(features[name], "dtype", "")).startswith("int")]
    label = config.label_column or (labels[0] if len(labels) == 1 else None)
    label = choose("label_column", label, rest if label else numbers, LABEL_NAMES, where, required=False)
    class_names = tuple(features[label].names) if label in labels else ()
    texts = [name for name in rest if _is_text(features[name])]
    captions = choose_captions(config.caption_columns, rest, texts, where, not class_names)
    return _Columns(image, captions, label, class_names)


def _is_text(feature: Any) -> bool:
    """A text, or a list of texts."""
    feature = getattr(feature, "feature", feature)
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _undecoded(dataset: Any, columns: _Columns) -> Any:
    """The data set with pictures as the bytes that are stored, and without columns that no JSON can hold."""
    import datasets

    heavy = (datasets.Image, datasets.Audio, datasets.Video)
    gone = [name for name, feature in dataset.features.items() if isinstance(feature, heavy) and name != columns.image]
    dataset = dataset.remove_columns(gone).with_format(None)
    if isinstance(dataset.features[columns.image], datasets.Image):
        dataset = dataset.cast_column(columns.image, datasets.Image(decode=False))
    return dataset


def _fingerprint(dataset: Any) -> str:
    """What `datasets` knows it by, which the files it was made from decide."""
    return f"{dataset._fingerprint}-{len(dataset)}"
