"""The files of clip-retrieval's layout, a partition at a time, each of which stands complete or is made again.

    OUTPUT/img_emb/img_emb_0.npy           [row, embed] fp16, L2-normalised
    OUTPUT/text_emb/text_emb_0.npy         the same of the captions, where the set has any
    OUTPUT/metadata/metadata_0.parquet     row by row: image_path, caption, and the fields of the sample's JSON
    OUTPUT/dropped/dropped_0.jsonl         what could not be read, with the reason: in none of the three
    OUTPUT/embed.json                      what decides all of it

Numbers are padded with zeros where there are several partitions, as clip-retrieval pads them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmclip.errors import UserError
from mmclip_data.pipelines.job import Dropped
from mmclip_data.pipelines.job.report import Tally
from mmclip_data.shards.atomic import atomic_file

FACTS = "embed.json"
OWN_COLUMNS = ("image_path", "caption", "metadata")
"""Fields of the JSON that are named so give way, as they do in clip-retrieval."""


@dataclass(frozen=True)
class Partition:
    """One partition's rows: those that could be read, aligned, and those that could not."""

    image_embed: Float[np.ndarray, "row embed"]
    text_embed: Float[np.ndarray, "row embed"] | None
    image_paths: Sequence[str]
    captions: Sequence[str | None]
    facts: Sequence[Mapping[str, Any]]
    dropped: Sequence[Dropped]


class Layout:
    """The folder; several processes may fill it, each its own partitions.

    Raises:
        UserError: it holds the embeddings of something else.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], partitions: int) -> None:
        self.folder = folder
        self.partitions = partitions
        require_pyarrow()
        text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
        path = folder / FACTS
        if not path.exists():
            if folder.exists() and any(
                entry for entry in folder.iterdir() if entry.name != FACTS and entry.name[0] != "."
            ):
                raise UserError(f"output={folder} is not empty, and no embeddings are in it; name a new folder")
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as handle:
                handle.write(text.encode())
        _refuse_other(path, json.loads(text))

    def is_done(self, number: int) -> bool:
        """Whether a partition was finished: its metadata is written last."""
        return self._path("metadata", "parquet", number).is_file()

    def write(self, number: int, partition: Partition) -> None:
        """Write one, each file whole or not at all."""
        lines = b"".join(drop.line() for drop in partition.dropped)
        self._write("dropped", "jsonl", number, lambda handle: handle.write(lines))
        for name, embed in (("img_emb", partition.image_embed), ("text_emb", partition.text_embed)):
            if embed is not None:
                half = embed.astype(np.float16)
                self._write(name, "npy", number, partial(np.save, arr=half, allow_pickle=False))
        self._write("metadata", "parquet", number, partial(_write_table, partition))

    def counted(self) -> tuple[int, Tally]:
        """Rows of the partitions that are there, and what was dropped from them."""
        import pyarrow.parquet as parquet

        rows, tally = 0, Tally()
        for number in filter(self.is_done, range(self.partitions)):
            rows += parquet.read_metadata(self._path("metadata", "parquet", number)).num_rows
            lines = self._path("dropped", "jsonl", number).read_text(encoding="utf-8").splitlines()
            tally.add(Dropped(**json.loads(line)) for line in lines)
        return rows, tally

    def _path(self, name: str, ending: str, number: int) -> Path:
        # As clip-retrieval: 10 partitions are 00 to 09.
        return self.folder / name / f"{name}_{number:0{len(str(self.partitions))}d}.{ending}"

    def _write(self, name: str, ending: str, number: int, write: Any) -> None:
        path = self._path(name, ending, number)
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as handle:
            write(handle)


def require_pyarrow() -> None:
    """Refuse to begin what could not be written.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError("writing Parquet needs pyarrow: pip install 'mmclip[hf]'") from error


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of tables within tables as `a.b`."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _refuse_other(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): remove the folder, and embed again") from error
    differ = [name for name in {**there, **facts} if there.get(name) != facts.get(name)]
    if differ:
        told = ", ".join(f"{name}: {there.get(name)!r:.60}, now {facts.get(name)!r:.60}" for name in differ)
        raise UserError(f"output={path.parent} holds the embeddings of something else ({told}); name another folder")


def _write_table(partition: Partition, handle: Any) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    columns: dict[str, Any] = {"image_path": pyarrow.array(partition.image_paths, pyarrow.string())}
    if partition.text_embed is not None:
        columns["caption"] = pyarrow.array(partition.captions, pyarrow.string())
    rows = [dict(flat(facts)) for facts in partition.facts]
    names = dict.fromkeys(name for row in rows for name in row if name not in OWN_COLUMNS)
    for name in names:
        columns[name] = _column([row.get(name) for row in rows])
    parquet.write_table(pyarrow.table(columns), handle)


def _column(values: list[Any]) -> Any:
    """A column of one type; values of several become texts, of which anything but a text is JSON."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        plain = (None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values)
        texts = [text if text is None else text.encode("utf-8", "replace").decode() for text in plain]
        return pyarrow.array(texts, pyarrow.string())
