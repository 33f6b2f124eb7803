"""The committed shards hold what they promise, and the job that made them makes them again."""

import io
import json
import os
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import mmclip_data
from mmclip_data.pipelines.emoji import SHARDS, EmojiConfig, draw, make_emoji
from mmclip_data.shards import ShardReader, build_index, open_index

EMBEDDED = Path(mmclip_data.__file__).parent / "embedded" / "emoji"
FIELDS = {"base_concept", "captions", "category", "code_points", "keywords", "name", "style", "subcategory"}
NAMES = [shard.name for shard in SHARDS]


@cache
def samples(shard: str) -> tuple[tuple[str, dict[str, bytes], dict[str, Any]], ...]:
    tar = EMBEDDED / f"{shard}.tar"
    index = open_index(tar)
    with ShardReader(tar, index) as reader:
        read = [(index.key(number), reader.read(number)) for number in range(index.num_samples)]
    return tuple((key, members, json.loads(members["json"])) for key, members in read)


def test_the_counts_are_those_of_the_manifest() -> None:
    counts = json.loads((EMBEDDED / "manifest.json").read_text())["counts"]
    for shard in SHARDS:
        expected = counts["held-out concepts" if shard.held_out else "trained concepts"]
        assert len(samples(shard.name)) == expected
    assert counts["concepts"] == counts["held-out concepts"] + counts["trained concepts"] == 1578
    assert 0.1 < counts["held-out concepts"] / counts["concepts"] < 0.2


@pytest.mark.parametrize("shard", SHARDS, ids=NAMES)
def test_every_sample_has_all_fields_and_a_64_px_picture(shard: Any) -> None:
    for key, members, facts in samples(shard.name):
        assert set(members) == {"json", "txt", "webp"}
        assert set(facts) == FIELDS
        assert facts["style"] == shard.style
        assert facts["code_points"] == key
        assert facts["name"] == members["txt"].decode() == facts["captions"][0]
        assert len(facts["captions"]) >= 4
        assert len(set(facts["captions"])) == len(facts["captions"])
        assert all(caption.strip() == caption != "" for caption in facts["captions"])
        with Image.open(io.BytesIO(members["webp"])) as image:
            assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (64, 64))


@pytest.mark.parametrize("shard", NAMES)
def test_keys_names_and_pictures_are_unique_in_a_shard(shard: str) -> None:
    for values in zip(*((key, facts["name"], members["webp"]) for key, members, facts in samples(shard)), strict=True):
        assert max(Counter(values).values()) == 1


def test_no_base_concept_stands_on_both_sides_and_styles_hold_the_same_concepts() -> None:
    sides: dict[bool, set[str]] = {False: set(), True: set()}
    names: dict[bool, set[tuple[str, ...]]] = {False: set(), True: set()}
    for shard in SHARDS:
        sides[shard.held_out] |= {facts["base_concept"] for _, _, facts in samples(shard.name)}
        names[shard.held_out].add(tuple(facts["name"] for _, _, facts in samples(shard.name)))
    assert sides[False] & sides[True] == set()
    assert [len(orders) for orders in names.values()] == [1, 1]


@pytest.mark.parametrize("shard", NAMES)
def test_the_committed_index_is_that_of_the_committed_tar(shard: str) -> None:
    tar = EMBEDDED / f"{shard}.tar"
    assert build_index(tar).fingerprint == open_index(tar).fingerprint


def test_no_personal_or_machine_names_stand_in_the_tars() -> None:
    for shard in NAMES:
        with tarfile.open(EMBEDDED / f"{shard}.tar", "r:") as archive:
            owners = {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in archive}
        assert owners == {(0, 0, "", "", 0, 0o644)}


def test_pictures_are_laid_over_white_fitted_and_centred(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (128, 64), (255, 0, 0, 128))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "wide.png")
    drawn = draw(tmp_path / "wide.png")
    assert drawn.shape == (64, 64, 3)
    assert (drawn[:12] == 255).all()
    assert (drawn[-12:] == 255).all()
    assert np.abs(drawn[32, 32].astype(int) - [255, 127, 127]).max() <= 1


@pytest.mark.slow
def test_a_rebuild_gives_the_committed_bytes(tmp_path: Path) -> None:
    """Takes the packages from MMCLIP_NPM_CACHE or `.cache/npm`; what is not there is downloaded, about 160 MB."""
    made_with = json.loads((EMBEDDED / "manifest.json").read_text())["libwebp"]
    if features.version("webp") != made_with:
        pytest.skip(f"Pillow brings libwebp {features.version('webp')}, the shards were encoded with {made_with}")
    cache_folder = Path(os.environ.get("MMCLIP_NPM_CACHE", Path(__file__).parents[3] / ".cache" / "npm"))
    report = make_emoji(EmojiConfig(output=tmp_path / "emoji", cache=cache_folder))
    assert {path.name for path in report.files} == {path.name for path in EMBEDDED.iterdir()} - {"ATTRIBUTION.md"}
    for path in report.files:
        assert path.read_bytes() == (EMBEDDED / path.name).read_bytes(), path.name
