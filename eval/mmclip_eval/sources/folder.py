"""The form `picture folder`: pictures in folders by class, as torchvision's ImageFolder, or with text files beside them.

[SPLIT/]CLASS/any/depth/1.jpg          the folder below the root (or the split) is the class
[SPLIT/]any/depth/1.jpg 1.txt          a caption a line; further files of that name (.json, .cls) are members too
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.pipelines.folder import OTHER_IMAGES
from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.files import FileSample, FileSamples, Member, picture_member
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.text_lines import Lines

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
MEMBERS = {*CAPTION_EXTENSIONS, "json", "cls", "npy"}
"""Files beside a picture that belong to it."""
MAX_LOOK = 20_000
"""Files that are looked at for a first picture."""


@dataclass(frozen=True)
class Pictures:
    """The files of a folder: pictures in order, and what belongs to them."""

    root: Path
    paths: list[str]
    """Of the pictures, from the root, with slashes."""
    beside: Mapping[str, list[str]]
    """By path without its ending: the endings of the files that belong to a picture there."""
    other: Counter[str]
    """Files that are neither, by ending."""

    @cached_property
    def captions(self) -> str | None:
        """The ending of caption files; None where there are none."""
        found = {extension for endings in self.beside.values() for extension in endings}
        return next((extension for extension in CAPTION_EXTENSIONS if extension in found), None)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the class folders, also of those without a picture: a class's number is its place among all."""
        if self.captions is not None or not any("/" in path for path in self.paths):
            return []
        names = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and not _hidden(entry.name))
        return names if len(names) > 1 else []

    @cached_property
    def index_of_class(self) -> dict[str, int]:
        """Number of each class."""
        return {name: number for number, name in enumerate(self.classes)}

    def sample(self, number: int) -> FileSample:
        """The sample of a picture; without JSON of its own that has its `path`, its `class` and its own `folder`."""
        path = Path(self.paths[number])
        stem = path.with_suffix("").as_posix()
        members: dict[str, Member] = {ending: self.root / f"{stem}.{ending}" for ending in self.beside.get(stem, ())}
        first = path.parts[0]
        if first in self.index_of_class and len(path.parts) > 1:
            members.setdefault("cls", str(self.index_of_class[first]).encode())
        facts = {"path": path.as_posix(), "folder": path.parent.name}
        members.setdefault("json", facts | ({"class": first} if first in self.index_of_class else {}))
        return FileSample(path.as_posix(), {picture_member(path): self.root / path}, members)


def recognises(config: SourceConfig) -> bool:
    """Whether there is a picture somewhere in the folder."""
    root = Path(config.path)
    return root.is_dir() and any(_is_picture(name) for name in islice(_files(root), MAX_LOOK))


def open_pictures(config: SourceConfig) -> OpenedSamples:
    """List the pictures of the split.

    Raises:
        UserError: there is no such split, or no picture in it.
    """
    root = split_of(Path(config.path), config.split)
    pictures = list_pictures(root)
    if not pictures.paths:
        raise UserError(
            f"{config.name}: no picture in {root}: expected files that end in {', '.join(IMAGE_EXTENSIONS)}"
        )
    notes = []
    if pictures.other:
        told = ", ".join(f"{count} of {ending}" for ending, count in pictures.other.most_common(4))
        notes.append(f"files in {root} that are no pictures were left alone: {told}")
    declared = Declared(
        captions=(f"{pictures.captions}:lines",) if pictures.captions else ("txt",),
        own_classes=Lines(tuple(pictures.classes), f"the folders of {root}") if pictures.classes else None,
        notes=tuple(notes),
    )
    return OpenedSamples(FileSamples(config.name, len(pictures.paths), pictures.sample), declared)


def split_of(root: Path, split: str) -> Path:
    """The folder of a split; the root itself where its folders are no splits.

    Raises:
        UserError: they are splits, and this is none of them.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name))
    if split in names and ({*names} <= SPLITS | {split} or any(entry.is_dir() for entry in (root / split).iterdir())):
        return root / split
    if names and {name.lower() for name in names} <= SPLITS:
        raise UserError(f"{root}: no split {split!r}: expected one of its folders (--split): {', '.join(names)}")
    return root


def list_pictures(root: Path) -> Pictures:
    """Look through a folder to any depth, in the order of the paths."""
    paths: list[str] = []
    texts: list[tuple[str, str]] = []
    other: Counter[str] = Counter()
    for path in _files(root):
        stem, dot, ending = path.rpartition(".")
        if _is_picture(path):
            paths.append(path)
        elif dot and ending in MEMBERS:
            texts.append((stem, ending))
        else:
            other[f".{ending}" if dot and "/" not in ending else "no ending"] += 1
    stems = {path.rpartition(".")[0] for path in paths}
    beside: dict[str, list[str]] = {}
    for stem, ending in sorted(texts):
        if stem in stems:
            beside.setdefault(stem, []).append(ending)
        else:
            other[f".{ending}"] += 1
    return Pictures(root, sorted(paths), beside, other)


def _files(root: Path) -> Iterator[str]:
    """Paths of all files, with links followed but not in circles; what is hidden is passed over."""
    above: dict[str, set[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        real, parents = os.path.realpath(folder), above.get(os.path.dirname(folder), set())
        if real in parents:
            folders[:] = []
            continue
        above[folder] = {*parents, real}
        folders[:] = sorted(name for name in folders if not _hidden(name))
        inside = Path(folder).relative_to(root)
        yield from ((inside / name).as_posix() for name in sorted(files) if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_picture(name: str) -> bool:
    ending = os.path.splitext(name)[1].lower()
    return ending[1:] in IMAGE_EXTENSIONS or ending in OTHER_IMAGES


FORM = Form(
    "picture folder",
    "pictures in folders by class ([SPLIT/]CLASS/1.jpg), or with text files beside them (1.jpg, 1.txt)",
    recognises,
    open_pictures,
)
