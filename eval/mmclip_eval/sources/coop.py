"""The form `CoOp split`: `split_zhou_NAME.json`, lists of [path, label, class name] under train, val and test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.files import FileSample, FileSamples, picture_member
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.places import picture_folder, read_json
from mmclip_eval.text_lines import Lines

Entry = tuple[str, int, str]


def recognises(config: SourceConfig) -> bool:
    """Whether it is a JSON file with lists under the names of splits."""
    path = Path(config.path)
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and isinstance(content.get("test", content.get("train")), list)


def open_split(config: SourceConfig) -> OpenedSamples:
    """Read a split; the names of the classes come from all splits, since one may lack some.

    Raises:
        UserError: there is no such split, an entry is not [path, label, class name], or a label has two names.
    """
    path = Path(config.path)
    content = read_json(path)
    if not isinstance(content.get(config.split), list) or not content[config.split]:
        raise UserError(f"{path}: no split {config.split!r}: expected one of (--split): {', '.join(content)}")
    entries = {name: _entries(path, name, rows) for name, rows in content.items() if isinstance(rows, list)}
    names = _names(path, [entry for rows in entries.values() for entry in rows])
    own = entries[config.split]
    root, notes = picture_folder(config, (picture for picture, _, _ in own))
    samples = FileSamples(config.name, len(own), _Makes(root, own))
    return OpenedSamples(samples, Declared(own_classes=Lines(names, f"the class names in {path}"), notes=notes))


@dataclass(frozen=True)
class _Makes:
    root: Path
    entries: list[Entry]

    def __call__(self, index: int) -> FileSample:
        name, label, class_name = self.entries[index]
        path = self.root / name
        facts = {"path": name, "label": label, "class": class_name}
        return FileSample(name, {picture_member(path): path}, {"cls": str(label).encode(), "json": facts})


def _entries(path: Path, split: str, rows: list[Any]) -> list[Entry]:
    found: list[Entry] = []
    for number, row in enumerate(rows):
        match row:
            case [str(name), int(label), str(class_name)] if not isinstance(label, bool) and label >= 0:
                found.append((name, label, class_name))
            case _:
                raise UserError(f"{path}, {split}, entry {number}: expected [path, label, class name], got {row!r:.80}")
    return found


def _names(path: Path, entries: list[Entry]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for _, label, name in entries:
        if names.setdefault(label, name) != name:
            raise UserError(f"{path}: label {label} is called {names[label]!r} and {name!r}: expected one name a label")
    missing = sorted(set(range(max(names) + 1)) - set(names))
    if missing:
        raise UserError(
            f"{path}: labels go up to {max(names)}, and none is {missing[0]}: expected labels without a gap"
        )
    return tuple(names[label] for label in range(len(names)))


FORM = Form(
    "CoOp split",
    "split_zhou_NAME.json of CoOp, beside its folder of pictures",
    recognises,
    open_split,
    options=("image_folder",),
)
