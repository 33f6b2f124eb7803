"""Captions by number: the table chooses what reading would, gives back the tokens, and outlives the process."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mmclip.errors import BadSampleError, UserError
from mmclip.tokenizer import Tokenizer
from mmclip_data.features.caption_table import caption_table
from mmclip_data.loading.captions import captions_of, choose_caption
from mmclip_data.loading.mixture import MixtureConfig
from mmclip_data.loading.opening import Opened, open_source
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

TOKENIZER = Tokenizer({"context_length": 9})


def opened(folder: Path, captions: tuple[str, ...] = ("txt:lines", "json:captions")) -> Opened:
    if not (folder / "0.tar").exists():
        folder.mkdir(exist_ok=True)
        samples = [
            {"txt": b"a red cat\na dog\na  RED cat", "json": b'{"captions": ["one", "two", "three"]}'},
            {"txt": b"a dog that is much too long for nine tokens, is it not"},
            {"json": b'{"captions": "two"}'},
            {"txt": b" \n"},
        ]
        with ShardWriter(folder, "{}.tar", 2) as writer:
            for number, members in enumerate(samples):
                writer.add(f"{number}", {"png": b"no picture", **members})
    return open_source(IndexedTarsConfig(shards=str(folder)), captions)


def test_the_table_chooses_the_caption_that_reading_the_sample_would(tmp_path: Path):
    source = opened(tmp_path / "shards")
    table = caption_table(source, TOKENIZER, "clip", tmp_path)
    for sample, (shard, row) in enumerate([(0, 0), (0, 1), (1, 0)]):
        for position in range(60):
            captions = captions_of(source.source.read(shard, row), source.captions)
            expected = TOKENIZER([choose_caption(captions, 7, position)])
            number = table.choose(sample, 7, position)
            assert torch.equal(table.rows(range(number, number + 1)), expected)
    with pytest.raises(BadSampleError, match="no caption in txt:lines, json:captions"):
        table.choose(3, 7, 0)


def test_captions_of_equal_tokens_are_one(tmp_path: Path):
    table = caption_table(opened(tmp_path / "shards"), TOKENIZER, "clip", tmp_path)
    assert len(table) == 6  # "a red cat" twice, "two" in two samples
    texts = ["a red cat", "a dog", "one", "two", "three", "a dog that is much too long for nine tokens, is it not"]
    assert torch.equal(table.rows(range(6)), TOKENIZER(texts))


def test_a_second_table_is_read_and_a_damaged_one_made_again(tmp_path: Path):
    source = opened(tmp_path / "shards")
    first = caption_table(source, TOKENIZER, "clip", tmp_path)
    calls: list[int] = []

    def counted(texts: Sequence[str]) -> torch.Tensor:
        calls.append(len(texts))
        return TOKENIZER(texts)

    second = caption_table(source, counted, "clip", tmp_path)
    assert not calls
    assert (second.fingerprint, second.bad, second.columns) == (first.fingerprint, first.bad, 9)
    path = next(tmp_path.glob("captions-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert caption_table(source, counted, "clip", tmp_path).fingerprint == first.fingerprint
    assert calls
    path.write_bytes(content[:50])
    assert caption_table(source, counted, "clip", tmp_path).fingerprint == first.fingerprint
    calls.clear()
    caption_table(source, counted, "another tokenizer", tmp_path)
    caption_table(opened(tmp_path / "shards", ("json:captions",)), counted, "clip", tmp_path)
    assert len(calls) > 1


def test_each_part_of_a_mixture_has_captions_of_its_own(tmp_path: Path):
    opened(tmp_path / "shards")
    one = {"source": {"type": "tars", "shards": str(tmp_path / "shards"), "name": "one"}, "captions": ["txt:lines"]}
    two = {"source": {"type": "tars", "shards": str(tmp_path / "shards"), "name": "two"}, "captions": ["json:captions"]}
    from mmclip_launch.run.tables import from_table

    mixture = open_source(from_table(MixtureConfig, {"type": "mixture", "sources": [one, two]}, "test"), None)
    table = caption_table(mixture, TOKENIZER, "clip", tmp_path)
    assert set(table.bad) == {2, 3, 5, 7}
    numbers = {table.choose(4, 0, position) for position in range(40)}
    assert torch.equal(
        torch.cat([table.rows(range(n, n + 1)) for n in sorted(numbers)]), TOKENIZER(["one", "two", "three"])
    )


def test_a_source_without_captions_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no sample has a caption in json:title"):
        caption_table(opened(tmp_path / "shards", ("json:title",)), TOKENIZER, "clip", tmp_path)


def test_tokenizers_are_told_apart_by_length_and_rules():
    names = {
        Tokenizer(table).fingerprint
        for table in (
            {"context_length": 9},
            {"context_length": 10},
            {"context_length": 9, "tokenizer_kwargs": {"clean": "canonicalize"}},
            {"context_length": 9, "tokenizer_kwargs": {"reduction_mask": "simple"}},
        )
    }
    assert len(names) == 4
    assert Tokenizer({"context_length": 9}).fingerprint in names
