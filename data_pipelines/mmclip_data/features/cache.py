"""Features of a whole source, encoded once and kept in one memory-mapped file, for locked towers and for evaluation.

    FOLDER/<key>/key.json          what the features are of: tower, preprocessing, source
    FOLDER/<key>/features.f32      [sample, embed] fp32, in the order of the source
    FOLDER/<key>/done-R-of-W.jsonl a line for each finished block of rank R: its hash, and its bad samples with the reason

A block is written, brought to the disk, and only then noted: after a kill at any moment what is noted is whole, and the
rest is encoded again. The rows of a block begin and end at whole pages, so that ranks on several machines share the file.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mmclip.errors import BadSampleError, MachineError, UserError
from mmclip.preprocess import ImageSpec

VERSION = 1
"""Of the file and of how a picture becomes its row: another one encodes anew."""
BLOCK_ROWS = 1024
"""Rows that a kill may cost each rank; a multiple of the chunk, and with any width a multiple of a page."""
KEY, FEATURES = "key.json", "features.f32"


@dataclass(frozen=True)
class FeatureKey:
    """What features are of: two that agree in all of it have the same rows."""

    tower: str
    """`state_hash` of the tower that encodes, with its architecture."""
    precision: str
    """Precision that it computes in."""
    spec: ImageSpec | None
    """None for texts."""
    source: str
    """Fingerprint of the source."""
    rows: int
    embed_dim: int
    block_rows: int = BLOCK_ROWS
    made_with: tuple[str, ...] = ()
    """What else moves the last digits, such as the device and versions, where it must not be another."""

    @property
    def table(self) -> dict[str, Any]:
        """The key in plain values."""
        table = {"version": VERSION, **asdict(self), "spec": self.spec.to_open_clip() if self.spec else None}
        made_with = {"made_with": list(self.made_with)} if self.made_with else {}
        return {name: value for name, value in table.items() if name != "made_with"} | made_with

    @property
    def digest(self) -> str:
        """The name of its folder."""
        return xxhash.xxh3_64_hexdigest(json.dumps(self.table, sort_keys=True).encode())


def state_hash(state: Mapping[str, Tensor], description: str = "") -> str:
    """Hex digits that change with any of the tensors, its name, or what is said of them."""
    digest = xxhash.xxh3_128(description.encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Block:
    """What is noted of a finished block."""

    number: int
    checksum: str
    """XXH3-64 of its bytes."""
    bad: Mapping[str, str]
    """Rows that could not be encoded, counted from the first of the source, with the reason."""


class FeatureCache:
    """The folder of one key, which several ranks fill, each its own blocks.

    Raises:
        UserError: another key stands in the folder.
        MachineError: the disk has no room for the features.
    """

    def __init__(self, folder: Path, key: FeatureKey) -> None:
        self.key = key
        self.folder = folder / key.digest
        self.path = self.folder / FEATURES
        self.size = key.rows * key.embed_dim * 4
        self.blocks = -(-key.rows // key.block_rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_once(self.folder / KEY, key.table)
        there = self.path.stat().st_blocks * 512 if self.path.exists() else 0
        free = shutil.disk_usage(self.folder).free
        if free < self.size - there:
            raise MachineError(
                f"{self.path} needs {self.size:,} bytes, and {free:,} are free: free some room, or give another folder"
            )
        with self.path.open("ab") as file:
            file.truncate(self.size)  # to the same size on each rank

    def rows_of(self, block: int) -> range:
        """The rows of a block."""
        first = block * self.key.block_rows
        return range(first, min(first + self.key.block_rows, self.key.rows))

    def done(self) -> dict[int, Block]:
        """What all ranks of all passes have finished so far."""
        found: dict[int, Block] = {}
        for path in sorted(self.folder.glob("done-*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    block = Block(**json.loads(line))
                except (ValueError, TypeError):  # a kill cut the line short, and its block is encoded again
                    continue
                found[block.number] = block
        return found

    def write(
        self, block: int, features: Float[Tensor, "row embed"], bad: Mapping[int, str], rank: int, ranks: int
    ) -> None:
        """Keep the rows of a block, then note that they are there."""
        self.write_blocks({block: (features, bad)}, rank, ranks)

    def write_blocks(
        self, blocks: Mapping[int, tuple[Float[Tensor, "_ embed"], Mapping[int, str]]], rank: int, ranks: int
    ) -> None:
        """Keep several blocks and wait for the disk once."""
        entries: list[Block] = []
        with self.path.open("r+b", buffering=0) as file:
            for number, (features, bad) in blocks.items():
                content = features.numpy().astype("<f4").tobytes()
                written = os.pwrite(file.fileno(), content, self.rows_of(number).start * self.key.embed_dim * 4)
                if written != len(content):
                    raise MachineError(
                        f"{self.path}: {written:,} of {len(content):,} bytes were written: is the disk full?"
                    )
                reasons = {str(row): reason for row, reason in bad.items()}
                entries.append(Block(number, xxhash.xxh3_64_hexdigest(content), reasons))
            os.fsync(file.fileno())
        journal = self.folder / f"done-{rank}-of-{ranks}.jsonl"
        torn = journal.exists() and not journal.read_bytes().endswith(b"\n")
        with journal.open("a") as file:
            file.write("\n" * torn + "".join(json.dumps(asdict(entry)) + "\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())

    def read_blocks(self) -> Iterator[tuple[Block, Float[Tensor, "_ embed"]]]:
        """What is done and still as it was written; a block that is not is left out, and so is encoded again."""
        width = self.key.embed_dim * 4
        with self.path.open("rb") as file:
            for number, block in sorted(self.done().items()):
                if not 0 <= number < self.blocks:
                    continue
                rows = self.rows_of(number)
                file.seek(rows.start * width)
                content = file.read(len(rows) * width)
                if xxhash.xxh3_64_hexdigest(content) == block.checksum:
                    values = np.frombuffer(content, dtype="<f4").reshape(len(rows), -1)
                    yield block, torch.from_numpy(values.astype(np.float32))

    def features(self) -> "Features":
        """The finished features.

        Raises:
            UserError: some blocks are missing.
        """
        done = self.done()
        missing = [number for number in range(self.blocks) if number not in done]
        if missing:
            raise UserError(
                f"{self.folder}: {len(missing)} of {self.blocks} blocks are missing, the first {missing[0]}"
            )
        return Features(self, done)


class Features:
    """Rows of a finished cache; each block is compared with its hash when this process first reads of it."""

    def __init__(self, cache: FeatureCache, blocks: Mapping[int, Block]) -> None:
        self.cache = cache
        self.blocks = blocks
        self.bad = {int(row): reason for block in blocks.values() for row, reason in block.bad.items()}
        self._checked: set[int] = set()

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        key = self.cache.key
        return np.memmap(self.cache.path, dtype="<f4", mode="r", shape=(key.rows, key.embed_dim))

    def row(self, number: int) -> Float[np.ndarray, " embed"]:
        """The L2-normalised features of a sample, by its place in the source.

        Raises:
            BadSampleError: its picture could not be encoded.
            UserError: the file is damaged.
        """
        if number in self.bad:
            raise BadSampleError(self.bad[number])
        block = number // self.cache.key.block_rows
        if block not in self._checked:
            rows = self.cache.rows_of(block)
            if xxhash.xxh3_64_hexdigest(self._rows[rows.start : rows.stop].tobytes()) != self.blocks[block].checksum:
                raise UserError(
                    f"{self.cache.path}: rows {rows.start:,} to {rows.stop:,} are not those that were written: remove "
                    f"{self.cache.folder}, and they are encoded again"
                )
            self._checked.add(block)
        return self._rows[number]


def _write_once(path: Path, table: Mapping[str, Any]) -> None:
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)
    if path.read_text() != text:
        raise UserError(f"{path} is that of other features than this run has: remove the folder, or give another one")
