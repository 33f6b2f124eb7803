"""Tensors by rows over several files: any rows can be read back from any number of files."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.shards import rows_each, rows_of
from mmclip.towers.layout import layout_of, read_all, shard_file, stored
from mmclip.training.checkpoint.sharded import fill_rows


def write(folder: Path, tensors: Mapping[str, Tensor], ranks: int) -> Path:
    """What so many ranks would write, each for itself."""
    for rank in range(ranks):
        held = {}
        for name, tensor in tensors.items():
            if tensor.dim() == 0:
                held |= {name: tensor} if rank == 0 else {}
                continue
            start, end = rows_of(len(tensor), rank, ranks)
            held |= {name: tensor[start:end].clone()} if end > start else {}
        save_file(held, folder / shard_file("weights", rank, ranks))
    table = {name: {"shape": list(tensor.shape)} for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.dim():
            table[name]["rows"] = rows_each(len(tensor), ranks)  # pyright: ignore[reportArgumentType]
    path = folder / layout_of("weights")
    path.write_text(json.dumps({"version": 1, "files": ranks, "tensors": table}))
    return path


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    shapes = {"matrix": (7, 3), "vector": (8,), "scale": (1,), "few": (2, 2), "step": ()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_rows_are_divided_as_torch_chunks_them(rows: int, ranks: int):
    places = [rows_of(rows, rank, ranks) for rank in range(ranks)]
    line = torch.arange(rows)
    chunks = [chunk.tolist() for chunk in line.chunk(ranks)] if rows else []
    assert [line[start:end].tolist() for start, end in places if end > start] == [chunk for chunk in chunks if chunk]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_range_of_rows_comes_back_from_any_number_of_files(
    ranks: int, tensors: dict[str, Tensor], tmp_path: Path
):
    path = write(tmp_path, tensors, ranks)
    whole = read_all(path)
    assert whole.keys() == tensors.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in tensors.items())
    with stored(path) as source:
        for name, tensor in tensors.items():
            for start in range(len(tensor) if tensor.dim() else 0):
                for end in range(start, len(tensor) + 1):
                    assert torch.equal(source.read(name, start, end), tensor[start:end])


def test_a_file_that_belongs_to_another_checkpoint_is_named(tensors: dict[str, Tensor], tmp_path: Path):
    path = write(tmp_path, tensors, 2)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "step"}, tmp_path / shard_file("weights", 1, 2)
    )
    with pytest.raises(UserError, match="do not belong together"):
        read_all(path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"version": 1}',
        '{"version": 1, "files": 3, "tensors": {}}',
        '{"version": 1, "files": "x", "tensors": {}}',
    ],
)
def test_a_layout_that_is_none_is_an_error_that_names_the_file(text: str, tmp_path: Path):
    path = tmp_path / layout_of("weights")
    path.write_text(text)
    with pytest.raises(UserError, match=r"weights\.layout\.json cannot be read"):
        read_all(path)


def test_a_layout_of_a_later_version_is_refused(tmp_path: Path):
    path = tmp_path / layout_of("weights")
    path.write_text('{"version": 2}')
    with pytest.raises(UserError, match="expected 1"):
        read_all(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda targets: targets.pop("few"), "unknown few"),
        (lambda targets: targets.update(more=torch.zeros(2)), "more is missing"),
        (lambda targets: targets.update(matrix=torch.zeros(7, 4)), r"matrix has shape \[7, 3\], expected \[7, 4\]"),
    ],
)
def test_filling_accounts_for_every_tensor(change, message: str, tensors: dict[str, Tensor], tmp_path: Path):
    path = write(tmp_path, tensors, 2)
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    change(targets)
    with stored(path) as source, pytest.raises(UserError, match=message):
        fill_rows(targets, source)
