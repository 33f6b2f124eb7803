"""The form `CLIP_benchmark`: the folder that its exporter writes, also DataComp's, on this machine or at a URL.

ROOT/classnames.txt, ROOT/zeroshot_classification_templates.txt, ROOT/dataset_type.txt (absent: classification),
ROOT/SPLIT/nshards.txt, ROOT/SPLIT/{0..N-1}.tar
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmclip.errors import UserError
from mmclip_data.stores import CacheConfig, ForbiddenError, NotFoundError, Place, expand_places
from mmclip_data.stores.shard import Stores
from mmclip_data.stores.urls import StoreUrl, is_url
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.counts import counts_beside
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.objectives import lines_of_objective
from mmclip_eval.sources.tars import ShardedSamples
from mmclip_eval.text_lines import lines_of

CLASS_NAMES, TEMPLATES, TYPE = MARKERS = (
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "dataset_type.txt",
)
COUNT = "nshards.txt"


@runtime_checkable
class Root(Protocol):
    """Where such a folder stands."""

    def text(self, name: str) -> bytes | None:
        """A small file of the folder, or None where it is missing."""
        ...

    def place(self, name: str) -> str:
        """The file's name in messages."""
        ...

    def shards(self, split: str, count: int) -> Sequence[Place]:
        """`0.tar` to `count - 1`.tar of the split; raises `UserError` where others are there."""
        ...

    def refuse_split(self, split: str) -> None:
        """Raise `UserError` where it is seen that there is no such split."""
        ...


@dataclass(frozen=True)
class LocalRoot:
    """A folder of this machine."""

    folder: Path

    def text(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def place(self, name: str) -> str:
        return str(self.folder / name)

    def refuse_split(self, split: str) -> None:
        if not (self.folder / split).is_dir():
            splits = sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())
            raise UserError(
                f"{self.folder}: no split {split!r}: expected one of its folders (--split): {', '.join(splits) or 'none'}"
            )

    def shards(self, split: str, count: int) -> list[Path]:
        folder = self.folder / split
        expected = {f"{number}.tar" for number in range(count)}
        present = {entry.name for entry in folder.glob("*.tar")}
        if present != expected:
            missing, extra = sorted(expected - present)[:3], sorted(present - expected)[:3]
            raise UserError(
                f"{folder}: {COUNT} says {count}, so 0.tar to {count - 1}.tar (unpadded) were expected; "
                f"found {len(present)} tars; missing {missing or 'none'}, not expected {extra or 'none'}: mend either"
            )
        return [folder / f"{number}.tar" for number in range(count)]


@dataclass(frozen=True)
class RemoteRoot:
    """A folder on a store; the Hub has its small files under another path than its tars."""

    texts: StoreUrl
    tars: StoreUrl
    cache: CacheConfig

    def text(self, name: str) -> bytes | None:
        url = StoreUrl(self.place(name))
        store = Stores(self.cache).of(url)
        try:
            facts = store.facts(url)
            return store.read(url, facts, 0, facts.size)
        except NotFoundError:
            return None

    def place(self, name: str) -> str:
        return f"{self.texts.full.rstrip('/')}/{name}"

    def refuse_split(self, split: str) -> None:
        """Nothing is seen: a store need not list its folders."""

    def shards(self, split: str, count: int) -> Sequence[Place]:
        # One brace list, so that the objects are asked for together.
        return expand_places(f"{self.tars.full.rstrip('/')}/{split}/{{0..{count - 1}}}.tar", self.cache)


def open_folder(config: SourceConfig, root: Root) -> OpenedSamples:
    """Index the shards of a split, and read what the folder declares.

    Raises:
        UserError: the split or its `nshards.txt` is missing, tars are missing or left over, or a text cannot be read.
        StoreError: a store does not answer.
    """
    root.refuse_split(config.split)
    shards = root.shards(config.split, _declared_count(root, config.split))
    samples = ShardedSamples(config.name, shards, not config.pictures)
    number, by = counts_beside(samples)
    texts = {name: root.text(name) for name in (CLASS_NAMES, TEMPLATES)}
    lines = {name: lines_of(text, root.place(name)) for name, text in texts.items() if text is not None}
    lines = lines_of_objective(lines, config.objective, config.name)
    kind = root.text(TYPE)
    declared = Declared(
        # Absent where the exporter wrote a classification set.
        dataset_type="classification" if kind is None else kind.decode("utf-8", "replace").strip().lower(),
        class_names=lines.get(CLASS_NAMES),
        templates=lines.get(TEMPLATES),
        captions=("txt:lines",),
        num_samples=number,
        counted_by=by,
    )
    return OpenedSamples(samples, declared)


def _declared_count(root: Root, split: str) -> int:
    name = f"{split}/{COUNT}"
    content = root.text(name)
    if content is None:
        raise UserError(f"{root.place(name)} is missing: expected one integer, the number of tars beside it")
    text = content.decode("utf-8", "replace").strip()
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{root.place(name)}: expected one positive integer, got {text!r:.40}")
    return int(text)


def recognises(config: SourceConfig) -> bool:
    """Whether the path is such a folder, complete or not; at a URL, whether its count of shards is there."""
    if is_url(config.path):
        return "::" not in config.path and not config.path.endswith(".tar") and _is_remote(config)
    folder = Path(config.path)
    if not folder.is_dir():
        return False
    return any((folder / name).is_file() for name in MARKERS) or any(folder.glob(f"*/{COUNT}"))


def _is_remote(config: SourceConfig) -> bool:
    try:
        return _remote(config).text(f"{config.split}/{COUNT}") is not None
    except ForbiddenError:  # S3 says so of what is not there, to those who may not list
        return False


def _remote(config: SourceConfig) -> RemoteRoot:
    url = StoreUrl.parse(config.path)
    return RemoteRoot(url, url, config.cache)


def _open(config: SourceConfig) -> OpenedSamples:
    return open_folder(config, _remote(config) if is_url(config.path) else LocalRoot(Path(config.path)))


FORM = Form(
    "CLIP_benchmark folder",
    f"a folder in CLIP_benchmark's or DataComp's layout ({CLASS_NAMES}, {TYPE}, SPLIT/{COUNT}, SPLIT/0.tar), also at a URL",
    recognises,
    _open,
    options=("objective",),
)
