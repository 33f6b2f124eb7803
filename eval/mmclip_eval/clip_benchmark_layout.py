"""The folder layout of CLIP_benchmark's WebDataset exports.

ROOT/classnames.txt, ROOT/zeroshot_classification_templates.txt, ROOT/dataset_type.txt (absent: classification),
ROOT/SPLIT/nshards.txt, ROOT/SPLIT/{0..N-1}.tar
"""

from dataclasses import dataclass
from pathlib import Path

from mmclip.errors import UserError

MARKERS = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


@dataclass(frozen=True)
class ClipBenchmarkFolder:
    """What the folder declares; a text file that it lacks is None."""

    shards: tuple[Path, ...]
    dataset_type: str
    class_names: str | None
    templates: str | None


def is_clip_benchmark_folder(path: Path, split: str) -> bool:
    """Whether `path` looks like such a folder, complete or not."""
    return path.is_dir() and (any((path / name).is_file() for name in MARKERS) or (path / split).is_dir())


def read_clip_benchmark_folder(root: Path, split: str) -> ClipBenchmarkFolder:
    """Read what the folder declares and check it against the tars that are there.

    Raises:
        UserError: the split or its `nshards.txt` is missing, or tars are missing or left over.
    """
    return ClipBenchmarkFolder(
        shards=_shards(root, split),
        dataset_type=_dataset_type(root / "dataset_type.txt"),
        class_names=_existing(root / "classnames.txt"),
        templates=_existing(root / "zeroshot_classification_templates.txt"),
    )


def _shards(root: Path, split: str) -> tuple[Path, ...]:
    folder = root / split
    if not folder.is_dir():
        splits = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        raise UserError(
            f"{root}: no split {split!r}: expected one of its folders (--split): {', '.join(splits) or 'none'}"
        )
    declared = _declared_count(folder / "nshards.txt")
    expected = {f"{number}.tar" for number in range(declared)}
    present = {entry.name for entry in folder.glob("*.tar")}
    if present != expected:
        missing, extra = sorted(expected - present)[:3], sorted(present - expected)[:3]
        raise UserError(
            f"{folder}: nshards.txt says {declared}, so 0.tar to {declared - 1}.tar (unpadded) were expected; "
            f"found {len(present)} tars; missing {missing or 'none'}, not expected {extra or 'none'}: mend either"
        )
    return tuple(folder / f"{number}.tar" for number in range(declared))


def _declared_count(path: Path) -> int:
    if not path.is_file():
        raise UserError(f"{path} is missing: expected one integer, the number of tars beside it")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{path}: expected one positive integer, got {text!r:.40}")
    return int(text)


def _dataset_type(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else "classification"


def _existing(path: Path) -> str | None:
    return str(path) if path.is_file() else None
