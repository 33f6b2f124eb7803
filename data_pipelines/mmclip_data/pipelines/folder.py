"""A folder of images to shards in CLIP_benchmark's layout; the images' own bytes are kept.

    mmclip shards make folder --source photos --output data/photos

Two kinds of folder are told apart. `class-folders`: `cat/1.jpg`, the folder's name is the class and the caption.
`captions`: `1.jpg` with `1.txt`, `1.text` or `1.caption` (a caption a line), or else `1.json` ("caption" or "captions"), which
is kept as the sample's `json`. A third, `pictures`, is taken when it is asked for: every image, no captions. A top level of
`train/` and `test/` gives two splits.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import xxhash

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.loading.caption_fields import JSON_KEYS
from mmclip_data.pipelines.job import Dropped, Job, Kept, Outcome, Track, Written, quiet, write_shards
from mmclip_data.pipelines.job.journal import DROPPED, JOURNAL
from mmclip_data.pipelines.layout import checked_templates, write_lines
from mmclip_data.pipelines.pairs import EXTENSIONS, plain, too_large, undecodable
from mmclip_data.pipelines.report import MakeReport, prepare_output
from mmclip_data.shards.pictures import look_at

MAGIC = {".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n", ".webp": b"RIFF"}
OTHER_IMAGES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jxl", ".svg", ".ppm")
TEXT_FILES, FACTS = (".txt", ".text", ".caption"), ".json"
CAPTION_FILES = (*TEXT_FILES, FACTS)
SPLITS = ("train", "test")
ITEMS_IN_PIECE = 64
OTHER_SPLITS = ("val", "valid", "validation", "dev")

Kind = Literal["class-folders", "captions", "pictures"]


@config
class FolderConfig:
    """A folder of JPEG, PNG and WebP images to shards, with captions from class folders or from caption files."""

    source: Path
    """Folder of images."""
    output: Path
    """Folder to write; must be new or empty, and outside `source`."""
    kind: Literal["auto", "class-folders", "captions", "pictures"] = "auto"
    """Where captions come from; auto looks for caption files first and says what it found. pictures: there are to be none."""
    split: Literal["train", "test"] = "train"
    """The split to write where `source` has no train/ and test/."""
    templates: tuple[str, ...] = ("a photo of a {c}",)
    """With class folders: the zero-shot templates to write, with {c} for the class name."""
    decode: bool = True
    """Decode every picture once, and drop those that training could not read."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    workers: int | None = None
    """Processes; default: one for each core. Changes no byte of the output."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


@dataclass(frozen=True)
class _Sample:
    image: Path
    captions: tuple[str, ...]
    label: int | None
    facts: Path | None = None
    """A JSON file that goes with it."""


@dataclass
class _Split:
    """One split's files, and what of them is left out, by reason; names are relative to the source."""

    source: Path
    folder: Path
    files: list[Path]
    samples: list[_Sample] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def texts(self) -> dict[Path, dict[str, Path]]:
        """By path without its ending: the caption files there, by their endings in lower case."""
        found: dict[Path, dict[str, Path]] = {}
        for path in self.files:
            if path.suffix.lower() in CAPTION_FILES and path.is_file():
                found.setdefault(path.with_suffix(""), {}).setdefault(path.suffix.lower(), path)
        return found

    def beside(self, image: Path) -> dict[str, Path]:
        """The caption files of an image."""
        return self.texts.get(image.with_suffix(""), {})

    def skip(self, reason: str, path: Path) -> None:
        self.skipped.setdefault(reason, []).append(str(path.relative_to(self.source)))


def make_folder(config: FolderConfig, track: Track = quiet) -> MakeReport:
    """Write every image that has a caption, if it needs one, in the order of the paths, and name every file that was left out.

    Raises:
        UserError: no folder, no usable image, a kind that cannot be told, or an output that is not empty or lies in
            the source.
    """
    _check_places(config)
    templates = checked_templates(config.templates)
    splits, outside = _find_splits(config)
    kind = _detect_kind(splits) if config.kind == "auto" else config.kind
    class_names = _class_names(splits) if kind == "class-folders" else []
    for split in splits.values():
        _collect(split, kind, class_names)
    if not any(split.samples for split in splits.values()):
        caption = "" if kind == "pictures" else " with a caption"
        raise UserError(f"source={config.source}: no image{caption}, as {kind}; {_reasons(splits)}")
    if config.overwrite or not any((config.output / split / JOURNAL).exists() for split in SPLITS):
        prepare_output(config.output, config.overwrite)
    written = {name: _write(config, name, split, kind, track) for name, split in splits.items() if split.samples}
    files = [path for split in written.values() for path in split.files]
    if kind == "class-folders":
        files.append(write_lines(config.output / "classnames.txt", class_names))
        files.append(write_lines(config.output / "zeroshot_classification_templates.txt", templates))
    elif kind == "captions":
        files.append(write_lines(config.output / "dataset_type.txt", ["retrieval"]))
    counts = {f"{name} samples": written[name].num_samples if name in written else 0 for name in splits}
    skipped = {"outside train and test": outside} if outside else {}
    for split in splits.values():
        for reason, names in split.skipped.items():
            skipped[reason] = (*skipped.get(reason, ()), *names)
    found = "found" if config.kind == "auto" else "as asked"
    notes = dict.fromkeys(note for split in written.values() for note in split.notes)
    return MakeReport(config.output, counts, tuple(files), skipped, (f"captions from: {kind} ({found})", *notes))


def _check_places(config: FolderConfig) -> None:
    if not config.source.is_dir():
        raise UserError(f"source={config.source}: no such folder")
    source, output = config.source.resolve(), config.output.resolve()
    if output.is_relative_to(source) or source.is_relative_to(output):
        raise UserError(
            f"output={config.output} and source={config.source}: one lies in the other; use separate folders"
        )


def _find_splits(config: FolderConfig) -> tuple[dict[str, _Split], tuple[str, ...]]:
    """The splits, and the files that belong to none; "train" beside other folders is a class, as in bus, train."""
    source = config.source
    names = {path.name for path in source.iterdir() if path.is_dir()}
    unknown = sorted(names & set(OTHER_SPLITS))
    if unknown and names & set(SPLITS):
        raise UserError(
            f"source={source}: {unknown[0]}/ beside train/ or test/; expected those two only, move or rename it"
        )
    folders = {config.split: source}
    if names and names <= set(SPLITS):
        folders = {name: source / name for name in SPLITS if name in names}
    splits = {name: _Split(source, folder, _walk(folder)) for name, folder in folders.items()}
    inside = {path for split in splits.values() for path in split.files}
    outside = tuple(str(path.relative_to(source)) for path in _walk(source) if path not in inside)
    return splits, outside


def _walk(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _detect_kind(splits: dict[str, _Split]) -> Kind:
    """Caption files beside images mean captions; otherwise images in subfolders mean classes."""
    images = [(split, path) for split in splits.values() for path in split.files if path.suffix.lower() in MAGIC]
    paired = sum(bool(split.beside(path)) for split, path in images)
    in_folders = sum(1 for split, path in images if path.parent != split.folder)
    if paired:
        return "captions"
    if images and in_folders == len(images):
        return "class-folders"
    raise UserError(
        f"kind='auto': {len(images)} images, {paired} with a caption file, {in_folders} in a class folder; expected "
        "caption files beside the images or every image in a class folder; set kind to say which is meant (pictures: none)"
    )


def _class_names(splits: dict[str, _Split]) -> list[str]:
    """The names of the folders that hold images, in alphabetical order: the position is the label."""
    folders = {
        path.relative_to(split.folder).parts[0]
        for split in splits.values()
        for path in split.files
        if path.suffix.lower() in MAGIC and path.parent != split.folder
    }
    names = [folder.replace("_", " ").strip() for folder in sorted(folders)]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not all(names):
        raise UserError(
            f"class folders {sorted(folders)[:10]}: names must differ and not be empty once _ is read as a space"
        )
    return names


def _collect(split: _Split, kind: Kind, class_names: list[str]) -> None:
    label_of = {name: label for label, name in enumerate(class_names)}
    captioned: set[Path] = set()
    for path in split.files:
        suffix = path.suffix.lower()
        if path.is_dir():
            split.skip("linked folder, not followed", path)
        elif suffix in MAGIC:
            problem = _image_problem(path, suffix)
            if problem:
                split.skip(problem, path)
            elif kind == "pictures":
                split.samples.append(_Sample(path, (), None))
            elif kind == "captions":
                captioned |= _add_captioned(split, path)
            elif path.parent == split.folder:
                split.skip("image outside a class folder", path)
            else:
                name = path.relative_to(split.folder).parts[0].replace("_", " ").strip()
                split.samples.append(_Sample(path, (name,), label_of[name]))
        elif suffix in OTHER_IMAGES:
            split.skip("image type that is not JPEG, PNG or WebP", path)
        elif kind != "captions" or suffix not in CAPTION_FILES:
            split.skip("neither image nor caption" if kind != "pictures" else "no image", path)
    if kind == "captions":
        for path in split.files:
            if path.suffix.lower() in CAPTION_FILES and path.is_file() and path not in captioned:
                split.skip("caption without an image, or a second caption file", path)


def _image_problem(path: Path, suffix: str) -> str | None:
    if not path.is_file():
        return "broken link or special file"
    with path.open("rb") as handle:
        start = handle.read(12)
    if not start:
        return "empty image file"
    known = any(start.startswith(magic) for magic in MAGIC.values())
    if not known or (start.startswith(b"RIFF") and start[8:12] != b"WEBP"):
        return f"named {suffix} but neither JPEG, PNG nor WebP inside"
    return None


def _add_captioned(split: _Split, image: Path) -> set[Path]:
    """Add the image with its caption, or the reason why it has none; returns the caption files that were used."""
    files = split.beside(image)
    source = next((files[ending] for ending in CAPTION_FILES if ending in files), None)
    if source is None:
        split.skip("image without a caption", image)
        return set()
    facts = files.get(FACTS)
    try:
        captions = _read_captions(source)
    except (ValueError, TypeError, RecursionError) as error:
        split.skip(f"caption file cannot be read ({type(error).__name__})", image)
        return {source}
    if facts not in (None, source) and _read_facts(facts) is None:
        split.skip("json beside a caption cannot be read", facts)
        facts, used = None, {source, facts}
    else:
        used = {source, *([facts] if facts else [])}
    if captions:
        split.samples.append(_Sample(image, captions, None, facts))
    else:
        split.skip("empty caption", image)
    return used


def _read_captions(path: Path) -> tuple[str, ...]:
    """Captions of a text (one a line) or of a `.json` ("caption": text, or "captions": list of texts)."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != FACTS:
        captions = text.splitlines()
    else:
        facts = json.loads(text)
        found = next((facts[key] for key in JSON_KEYS if facts.get(key)), []) if isinstance(facts, dict) else []
        captions = [found] if isinstance(found, str) else found
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise TypeError("expected text or a list of texts")
    return tuple(" ".join(caption.split()) for caption in captions if caption.strip())


def _read_facts(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is none."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _write(config: FolderConfig, name: str, split: _Split, kind: Kind, track: Track) -> Written:
    """Write one split; what decoding drops joins what was left out before."""
    folder = config.output / name
    left_out = [Dropped(path, reason) for reason, paths in split.skipped.items() for path in paths]
    items = _Items(config.source, (*split.samples, *left_out))
    settings = {"kind": kind, "decode": config.decode, "samples_per_shard": config.samples_per_shard}
    written = write_shards(
        Job("make folder", settings, items.fingerprint),
        items,
        _Read(config.source, config.decode),
        folder,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers,
        track=track,
    )
    lines = (folder / DROPPED).read_bytes().splitlines()
    for drop in [Dropped(**json.loads(line)) for line in lines[: len(lines) - len(left_out)]]:
        split.skip(drop.reason, config.source / drop.source)
    gone = {name for names in split.skipped.values() for name in names}
    sources = [str(sample.image.relative_to(config.source)) for sample in split.samples]
    write_lines(folder / "sources.txt", [source for source in sources if source not in gone])
    written.files.append(folder / "sources.txt")
    return written


@dataclass(frozen=True)
class _Items:
    """The samples to write, and behind them what was left out already."""

    source: Path
    entries: tuple[_Sample | Dropped, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def pieces(self, start: int) -> Iterator[tuple[_Sample | Dropped, ...]]:
        for first in range(start, len(self.entries), ITEMS_IN_PIECE):
            yield self.entries[first : first + ITEMS_IN_PIECE]

    @property
    def fingerprint(self) -> str:
        """Of names, captions and labels, and of the pictures' sizes and times."""
        digest = xxhash.xxh3_128()
        for entry in self.entries:
            if isinstance(entry, Dropped):
                facts = list(entry)
            else:
                facts = [str(entry.image.relative_to(self.source)), *entry.captions, str(entry.label)]
                for path in (entry.image, *([entry.facts] if entry.facts else [])):
                    status = path.stat()
                    facts += [str(status.st_size), str(status.st_mtime_ns)]
            digest.update("\n".join(facts).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Read:
    """The work on some entries: the pictures are read, and decoded if asked."""

    source: Path
    decode: bool

    def __call__(self, piece: tuple[_Sample | Dropped, ...]) -> list[Outcome]:
        return [entry if isinstance(entry, Dropped) else self._outcome(entry) for entry in piece]

    def _outcome(self, sample: _Sample) -> Outcome:
        picture = sample.image.read_bytes()
        problem = too_large(picture) or (undecodable(picture) if self.decode else None)
        if problem:
            return Dropped(str(sample.image.relative_to(self.source)), *problem)
        members = {EXTENSIONS[look_at(picture).format]: picture}
        if sample.captions:
            members["txt"] = "\n".join(sample.captions).encode()
        facts = _read_facts(sample.facts) if sample.facts else None
        if facts:
            members["json"] = json.dumps(plain(facts), ensure_ascii=False).encode(errors="backslashreplace")
        return Kept(members if sample.label is None else members | {"cls": str(sample.label).encode()})


def _reasons(splits: dict[str, _Split]) -> str:
    reasons = [f"{len(names)} {reason}" for split in splits.values() for reason, names in split.skipped.items()]
    return "; ".join(reasons) or "the folder is empty"
