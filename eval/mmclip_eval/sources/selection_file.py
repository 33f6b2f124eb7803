"""`SelectionFile`: the instances of SugarCrepe, Winoground and ARO as samples, their pictures in a folder.

path = "sugar-crepe/data/add_att.json", image_folder = "val2017"
path = "winoground/examples.jsonl"      (pictures beside it, in images/)
path = "ARO/visual_genome_relation.json"
"""

import io
import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

import xxhash

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.decode import decode_image
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.selection_entries import Box, Entry, begins_like_an_entry, read_entries

PICTURE, JSON = "{}.picture", "json"


class SelectionFile:
    """A sample an entry, with the members `0.picture` (and `1.picture`) and `json`: the entry, and its `captions`.

    Raises:
        UserError: the file is of no form that is known.
    """

    def __init__(self, name: str, path: Path, image_folder: Path | None = None) -> None:
        self.name = name
        self.path = path
        self.several_pictures = 0
        self._entries = read_entries(path)
        beside = path.parent / "images"
        self._folder = image_folder or (beside if beside.is_dir() else path.parent)
        self._files = [self._files_of(entry) for entry in self._entries]
        missing = ((index, self._missing(index)) for index in range(len(self)))
        self.bad: Mapping[int, str] = {index: reason for index, reason in missing if reason}
        """Entries of which a picture is not there."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The members that hold the pictures of a sample; none where each has one."""
        most = max(map(len, self._files))
        return tuple(PICTURE.format(number) for number in range(most)) if most > 1 else ()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def fingerprint(self) -> str:
        """32 hex digits of all entries and the bytes of all pictures, each read once for it."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = xxhash.xxh3_128(self.path.read_bytes())
        for file in dict.fromkeys(file for files in self._files for file in files):
            digest.update(file.read_bytes() if file.is_file() else b"missing")
        return digest.hexdigest()

    def extension_counts(self) -> Counter[str]:
        """How many samples have a member of each extension."""
        return Counter(extension for index in range(len(self)) for extension in self.extensions(index))

    def sample_id(self, index: int) -> str:
        return f"{self.name}/{self.path.name}/{self._entries[index].key}"

    def extensions(self, index: int) -> tuple[str, ...]:
        """Those of a sample's members, in their order."""
        return *(PICTURE.format(number) for number in range(len(self._files[index]))), JSON

    def image_bytes(self, index: int) -> bytes:
        """The first picture of a sample.

        Raises:
            BadSampleError: it cannot be read.
        """
        return self._picture(index, 0)

    def members(self, index: int, extensions: Collection[str]) -> dict[str, bytes]:
        """Those of the named members that the sample has.

        Raises:
            UserError: a picture cannot be read.
        """
        found: dict[str, bytes] = {}
        try:
            for number in range(len(self._files[index])):
                if PICTURE.format(number) in extensions:
                    found[PICTURE.format(number)] = self._picture(index, number)
        except BadSampleError as error:
            raise UserError(f"sample {self.sample_id(index)} cannot be read: {error}") from error
        if JSON in extensions:
            entry = self._entries[index]
            found[JSON] = json.dumps({**entry.fields, "captions": entry.captions}).encode()
        return found

    def close(self) -> None:
        """Nothing stays open."""

    def _picture(self, index: int, number: int) -> bytes:
        file, box = self._files[index][number], self._entries[index].box
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BadSampleError(f"{file}: {error}") from error
        return data if box is None else _cropped(data, box)

    def _files_of(self, entry: Entry) -> tuple[Path, ...]:
        return tuple(self._file(entry, name) for name in entry.pictures)

    def _file(self, entry: Entry, name: str) -> Path:
        where = f"{self.path}, entry {entry.key}"
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{where}: picture {name!r} lies outside of the folder of pictures")
        tried = [name, *(f"{name}.{extension}" for extension in IMAGE_EXTENSIONS)]
        return next((self._folder / one for one in tried if (self._folder / one).is_file()), self._folder / name)

    def _missing(self, index: int) -> str | None:
        entry = self._entries[index]
        name = next(
            (name for name, file in zip(entry.pictures, self._files[index], strict=True) if not file.is_file()), None
        )
        if name is None:
            return None
        where = f"{self.path}, entry {entry.key}"
        return f"{where}: no picture {name!r} in {self._folder}: set image_folder to the folder that holds the pictures"


def _cropped(data: bytes, box: Box) -> bytes:
    """The part of a picture, without a loss."""
    picture = decode_image(data)
    left, upper, right, lower = box
    if right <= 0 or lower <= 0 or left >= picture.width or upper >= picture.height:
        raise BadSampleError(f"box {box} lies outside of a picture of {picture.width} x {picture.height} pixels")
    buffer = io.BytesIO()
    picture.crop(box).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def recognises(config: SourceConfig) -> bool:
    """Whether it is a file of instances; a JSON file that is nothing else is taken for one, to be told what it lacks."""
    path = Path(config.path)
    if not path.is_file():
        return False
    return path.suffix == ".json" or (path.suffix == ".jsonl" and begins_like_an_entry(path))


def open_selection(config: SourceConfig) -> OpenedSamples:
    """Read the instances.

    Raises:
        UserError: the file is of no form that is known.
    """
    folder = Path(config.image_folder) if config.image_folder else None
    samples = SelectionFile(config.name, Path(config.path), folder)
    declared = Declared("image_caption_selection", pictures=samples.pictures, captions=("json:captions",))
    return OpenedSamples(samples, declared)


FORM = Form(
    "file of instances",
    "a file of SugarCrepe, Winoground or ARO (.json, .jsonl), beside its folder of pictures",
    recognises,
    open_selection,
    options=("image_folder",),
)
