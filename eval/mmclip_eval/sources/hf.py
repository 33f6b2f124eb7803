"""The form `datasets`: what Hugging Face's library opens, by its name on the Hub or by a folder or file of this machine.

    hf:USER/NAME     hf:FOLDER     a folder written by save_to_disk, of Parquet, or with metadata.csv beside its pictures

The picture is a member of its column's name. The class is `cls`, the caption `txt`, every other column a key of `json`;
class labels stand there by name.
"""

import io
import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.datasets_source import DatasetsConfig, open_split, picture_in
from mmclip_data.pipelines.pairs import plain, texts_of
from mmclip_eval.sources import folder, table
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.hf_columns import HFColumns, class_name, columns_of
from mmclip_eval.text_lines import Lines

PREFIX = "hf:"
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
ROWS_AT_ONCE = 256


class DatasetRows:
    """Rows of a `datasets` data set; pictures stay the bytes that are stored, or the files that are named."""

    several_pictures = 0

    def __init__(self, name: str, split: str, rows: Any, columns: HFColumns, root: Path) -> None:
        self.name = name
        self.split = split
        self.columns = columns
        self.root = root
        """Where relative paths of pictures begin."""
        self.bad: Mapping[int, str] = {}
        """None is known before it is read."""
        import datasets

        for column in columns.pictures:
            if isinstance(rows.features[column], datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        kept = [
            name for name, feature in rows.features.items() if not isinstance(feature, (datasets.Audio, datasets.Video))
        ]
        kept = [
            name for name in kept if name in columns.pictures or not isinstance(rows.features[name], datasets.Image)
        ]
        self._rows = rows.select_columns(kept).with_format(None)
        self._pictures = self._rows.select_columns([*columns.pictures])
        self._facts = self._rows.select_columns([name for name in kept if name not in columns.pictures])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        """Of the bytes of all pictures and of all other cells, in order, wherever the library keeps them."""
        return self._read_once[0]

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        return Counter(dict.fromkeys(self.extensions(0), len(self))) if len(self) else Counter()

    def sample_id(self, index: int) -> str:
        return f"{self.name}/{self.split}/{index:09d}"

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, by column."""
        columns = self.columns
        texts = ("cls",) * (columns.label is not None) + ("txt",) * bool(columns.captions)
        arrays = ("npy",) * ("npy" in self._facts.column_names)
        return tuple(dict.fromkeys((*columns.pictures, *texts, *arrays, *columns.binary, "json")))

    def image_bytes(self, index: int) -> bytes:
        """The encoded picture, the first where there are several.

        Raises:
            BadSampleError: there is none, it cannot be read, or it is another than when the set was opened.
        """
        return self._picture(index, self.columns.pictures[0])

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has.

        Raises:
            UserError: a picture cannot be read.
        """
        found: dict[str, bytes] = {}
        try:
            found |= {name: self._picture(index, name) for name in self.columns.pictures if name in extensions}
        except BadSampleError as error:
            raise UserError(f"sample {self.sample_id(index)} cannot be read: {error}") from error
        if set(extensions) - {*self.columns.pictures}:
            found |= {name: data for name, data in self._texts(self._facts[index]).items() if name in extensions}
        return found

    def close(self) -> None:
        """The library maps its files into memory; nothing is kept open."""

    def _picture(self, index: int, column: str) -> bytes:
        content = picture_in(self._pictures[index][column], self.root, column)
        known = self.__dict__.get("_read_once")  # worked out when the fingerprint was first asked for
        if known is not None and known[1][column][index] != xxhash.xxh3_64_intdigest(content):
            raise BadSampleError(f"column {column!r}: its bytes are others than when the set was opened")
        return content

    def _texts(self, cells: Mapping[str, Any]) -> dict[str, bytes]:
        columns, found = self.columns, {}
        if columns.label is not None and cells[columns.label] is not None:
            found["cls"] = str(cells[columns.label]).encode(errors="surrogatepass")
        captions = [text for column in columns.captions for text in texts_of(cells[column])]
        if captions:
            lines = [" ".join(text.split()) for text in captions] if len(captions) > 1 else captions
            found["txt"] = "\n".join(lines).encode(errors="surrogatepass")
        if cells.get("npy") is not None and "npy" not in columns.binary:  # the library's tar reader decodes it
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(cells["npy"]), allow_pickle=False)
            found["npy"] = buffer.getvalue()
        found |= {column: cells[column] for column in columns.binary if cells[column] is not None}
        facts = {column: self._fact(column, value) for column, value in cells.items() if column not in columns.binary}
        if isinstance(facts.get("json"), dict):  # of a tar: its keys are asked for by their own names
            facts |= facts.pop("json")
        found["json"] = json.dumps(plain(facts), ensure_ascii=False).encode(errors="surrogatepass")
        return found

    def _fact(self, column: str, value: Any) -> Any:
        names = self.columns.classes.get(column)
        return value if names is None or value is None else class_name(names, value)

    @cached_property
    def _read_once(self) -> tuple[str, Mapping[str, np.ndarray]]:
        """The fingerprint, and a hash of each picture by column; 0 of one that cannot be read."""
        digest = xxhash.xxh3_128(repr((self.columns.pictures, sorted(self.columns.classes.items()))).encode())
        hashes = {column: np.zeros(len(self), dtype=np.uint64) for column in self.columns.pictures}
        for start in range(0, len(self), ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, len(self))
            pictures, facts = self._pictures[start:stop], self._facts[start:stop]
            digest.update(repr(facts).encode(errors="backslashreplace"))
            for column, cells in pictures.items():
                hashes[column][start:stop] = [self._hash_of(cell, column) for cell in cells]
        for column in self.columns.pictures:
            digest.update(hashes[column].astype("<u8").tobytes())
        return digest.hexdigest(), hashes

    def _hash_of(self, cell: Any, column: str) -> int:
        try:
            return xxhash.xxh3_64_intdigest(picture_in(cell, self.root, column))
        except BadSampleError:
            return 0


def recognises(config: SourceConfig) -> bool:
    """Whether the library is asked for by name, or the folder is one that only it can read."""
    if config.path.startswith(PREFIX) and not config.path.startswith(f"{PREFIX}//"):
        return True
    path = Path(config.path)
    if path.is_file():
        return path.suffix.lower() == ".arrow" or table.has_pictures_inside(path)
    if not path.is_dir():
        return False
    if any((path / name).is_file() for name in SAVED):
        return True
    places = [path, *(entry for entry in path.iterdir() if entry.is_dir())]
    if any((place / name).is_file() for place in places for name in METADATA):
        return True
    has_parquet = any(next(place.glob("*.parquet"), None) for place in places)
    # Beside tars or pictures of img2dataset a Parquet is about them.
    return has_parquet and not any(path.glob("*.tar")) and not folder.recognises(config)


def open_rows(config: SourceConfig) -> OpenedSamples:
    """Open the split.

    Raises:
        UserError: the package, the data set, the split or a column is not there.
        MachineError: the Hub cannot be reached.
    """
    place = config.path.removeprefix(PREFIX)
    where, path = f"{config.name}: {place}", Path(place)
    options = {"config": config.subset, "split": config.split, "revision": config.revision}
    rows = open_split(DatasetsConfig(path=place, **options), where)
    if not len(rows):
        raise UserError(f"{where}: split {config.split!r} has no rows")
    columns = columns_of(rows.features, config.image_column, where)
    root = Path(config.image_folder) if config.image_folder else path.parent if path.is_file() else path
    own, several = columns.own_classes, columns.several_labels
    names = columns.classes[several[0]] if own is None and len(several) == 1 else None
    declared = Declared(
        dataset_type="image_caption_selection" if len(columns.pictures) > 1 and len(columns.captions) > 1 else None,
        class_names=Lines(names, f"the column {several[0]} of {place}") if names else None,
        captions=tuple(f"json:{column}" for column in columns.captions) or ("txt",),
        pictures=columns.pictures if len(columns.pictures) > 1 else (),
        own_classes=Lines(own, f"the column {columns.label} of {place}") if own else None,
    )
    return OpenedSamples(DatasetRows(config.name, config.split, rows, columns, root), declared)


FORM = Form(
    "datasets data set",
    "hf:USER/NAME or hf:FOLDER by the library datasets; a folder of save_to_disk, of Parquet, or with metadata.csv",
    recognises,
    open_rows,
    options=("subset", "revision", "image_column", "image_folder"),
)
