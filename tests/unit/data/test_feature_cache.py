"""The cached encode pass: the same bits for any ranks and kills, bad pictures noted, damage and other keys found."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmclip.errors import BadSampleError, UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.features.cache import FeatureCache, FeatureKey, state_hash
from mmclip_data.features.encode import Chunk, encode_images, image_chunks, pictures_of
from mmclip_data.features.encode_once import SourcePictures, fill
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.sources import IndexedTarsConfig, SyntheticConfig

SPEC = ImageSpec(size=(8, 8))
ROWS, CHUNK, BLOCK = 45, 4, 8
KEY = FeatureKey(tower="t", precision="fp32", spec=SPEC, source="s", rows=ROWS, embed_dim=5, block_rows=BLOCK)
BAD = (3, 16, 17, 18, 19)  # the last four are a whole chunk


def pixels(row: int) -> Tensor:
    if row in BAD:
        raise BadSampleError(f"picture {row} is cut")
    return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(row))


def encoder(calls: list[int], fail_after: int = 10**9) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    weights = torch.randn(192, 5)

    def embed(images: Tensor) -> Tensor:
        assert len(images) == CHUNK
        if len(calls) == fail_after:
            raise KeyboardInterrupt
        calls.append(len(images))
        return images.flatten(1).float() @ weights

    return embed


def filling(
    cache: FeatureCache,
    embed: Callable[[Tensor], Tensor],
    pictures: Callable[[int], Tensor] = pixels,
    threads: int | None = None,
    **ranks: int,
) -> Iterator[int]:
    """The pass over pictures, in chunks of a few."""

    def encode(chunks: Iterator[range]) -> Iterator[Chunk]:
        name = "row {} of the source".format
        return image_chunks(pictures, chunks, embed, name, chunk_size=CHUNK, decode_threads=threads)

    return fill(cache, encode, chunk_size=CHUNK, **ranks)


def filled(folder: Path, calls: list[int] | None = None) -> bytes:
    cache = FeatureCache(folder, KEY)
    embed = encoder([] if calls is None else calls)
    assert list(filling(cache, embed, threads=2)) == list(range(6))
    return cache.path.read_bytes()


def test_rows_are_the_normalised_features_in_the_order_of_the_source(tmp_path: Path):
    filled(tmp_path)
    features, embed = FeatureCache(tmp_path, KEY).features(), encoder([])
    for row in range(ROWS):
        if row in BAD:
            with pytest.raises(BadSampleError, match=f"picture {row} is cut"):
                features.row(row)
            continue
        expected = embed(pixels(row).expand(CHUNK, -1, -1, -1))[0]
        torch.testing.assert_close(torch.from_numpy(features.row(row).copy()), expected / expected.norm())
    assert sorted(features.bad) == [*BAD]


def test_ranks_fill_one_file_with_the_same_bytes(tmp_path: Path):
    expected = filled(tmp_path / "one")
    passes = [filling(FeatureCache(tmp_path / "two", KEY), encoder([]), rank=rank, ranks=2) for rank in range(2)]
    assert [next(passes[1]), *passes[0], *passes[1]] == [1, 0, 2, 4, 3, 5]
    cache = FeatureCache(tmp_path / "two", KEY)
    assert cache.path.read_bytes() == expected
    assert sorted(cache.features().bad) == [*BAD]


def test_a_killed_pass_goes_on_where_it_was(tmp_path: Path):
    whole: list[int] = []
    expected = filled(tmp_path / "whole", whole)
    cache, before = FeatureCache(tmp_path / "killed", KEY), list[int]()
    with pytest.raises(KeyboardInterrupt):  # in the middle of the third block
        list(filling(cache, encoder(before, 4), threads=1))
    with pytest.raises(UserError, match="4 of 6 blocks are missing, the first 2"):
        cache.features()
    journal = cache.folder / "done-0-of-1.jsonl"
    journal.write_text(journal.read_text() + '{"number": 2, "chec')  # a line that the kill cut short
    after: list[int] = []
    assert list(filling(cache, encoder(after))) == [2, 3, 4, 5]
    assert len(after) == len(whole) - 4
    assert cache.path.read_bytes() == expected
    assert sorted(cache.features().bad) == [*BAD]
    again: list[int] = []
    assert list(filling(FeatureCache(tmp_path / "killed", KEY), encoder(again), rank=1, ranks=3)) == []
    assert again == []


def test_other_keys_get_folders_of_their_own_and_a_strange_one_is_refused(tmp_path: Path):
    cache = FeatureCache(tmp_path, KEY)
    changes: list[dict[str, Any]] = [
        {"tower": "u"}, {"precision": "bf16"}, {"source": "r"}, {"rows": 46}, {"spec": ImageSpec(size=(8, 8), fill_color=1)},
    ]  # fmt: skip
    folders = {cache.folder, *(FeatureCache(tmp_path, replace(KEY, **change)).folder for change in changes)}
    assert len(folders) == 1 + len(changes)
    table = json.loads((cache.folder / "key.json").read_text())
    (cache.folder / "key.json").write_text(json.dumps({**table, "tower": "another"}))
    with pytest.raises(UserError, match="that of other features"):
        FeatureCache(tmp_path, KEY)


def test_a_damaged_block_is_found_when_it_is_read(tmp_path: Path):
    content = bytearray(filled(tmp_path))
    cache = FeatureCache(tmp_path, KEY)
    content[9 * 5 * 4] ^= 1
    cache.path.write_bytes(content)
    features = cache.features()
    assert features.row(0).shape == (5,)
    with pytest.raises(UserError, match=r"rows 8 to 16 are not those that were written: remove"):
        features.row(12)


def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_row(tmp_path: Path):
    def embed(images: Tensor) -> Tensor:
        features = torch.ones(len(images), 5)
        features[2] = float("nan")
        return features

    with pytest.raises(UserError, match="row 2 of the source: its embedding is not finite"):
        list(filling(FeatureCache(tmp_path, KEY), embed))


def test_the_hash_of_a_tower_knows_every_weight_and_statistic():
    tower = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = state_hash(tower.state_dict())
    assert before == state_hash(tower.state_dict())
    buffers: Any = tower[1]
    buffers.running_mean[0] = 1
    assert state_hash(tower.state_dict()) != before


def test_rows_of_a_source_are_its_samples_shard_by_shard():
    source = open_source(IndexedTarsConfig(shards="embedded:emoji/unseen-concept-*.tar"), ("txt",)).source
    pictures = SourcePictures(source, SPEC.to_uint8)
    places = [(shard, row) for shard, size in enumerate(source.shard_sizes.tolist()) for row in range(size)]
    assert [pictures.place(row) for row in range(len(pictures))] == places
    assert pictures(len(pictures) - 1).shape == (3, 8, 8)
    source.leave_pictures()
    with pytest.raises(BadSampleError, match="no picture"):
        pictures(0)


def test_synthetic_pictures_are_encoded_too():
    source = SyntheticConfig(samples=2, image_size=8).build(())
    assert torch.equal(
        SourcePictures(source, SPEC.to_uint8)(1), torch.from_numpy(source.read(0, 1)["pixels"]).permute(2, 0, 1)
    )
    source.leave_pictures()
    assert "pixels" not in source.read(0, 1)


def test_the_features_of_an_evaluation_source_are_those_of_the_plain_pass(tmp_path: Path):
    from PIL import Image

    class Few:
        def __len__(self) -> int:
            return 6

        def sample_id(self, index: int) -> str:
            return str(index)

        def image_bytes(self, index: int) -> bytes:
            from io import BytesIO

            buffer = BytesIO()
            Image.new("RGB", (9, 9), (index * 40, 10, 10)).save(buffer, "PNG")
            return buffer.getvalue()

    key = replace(KEY, rows=6)
    list(filling(FeatureCache(tmp_path, key), encoder([]), pictures_of(Few(), SPEC.to_uint8)))
    features = FeatureCache(tmp_path, key).features()
    expected = encode_images(Few(), SPEC.to_uint8, encoder([]), chunk_size=CHUNK)
    assert np.array_equal(np.stack([features.row(row) for row in range(6)]), expected.numpy())
