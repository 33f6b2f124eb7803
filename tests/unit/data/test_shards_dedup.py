"""Each picture once: by its bytes, and by what it looks like; the first of a group is kept and each other one is named."""

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.pipelines.dedup import DedupConfig, first_equal, make_dedup
from mmclip_data.pipelines.job import Dropped
from mmclip_data.pipelines.near_duplicates import first_alike
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import picture

Samples = dict[str, dict[str, bytes]]


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    with ShardWriter(folder, "{:05d}.tar", 10) as writer:
        for key, members in samples.items():
            writer.add(key, members)


def made(count: int) -> Samples:
    source = random.Random(1)
    return {f"{n:06d}": {"jpg": picture(source, 16 + n), "txt": f"caption {n}".encode()} for n in range(count)}


def read(folder: Path) -> Samples:
    samples = WebDataset([str(tar) for tar in sorted(folder.glob("*.tar"))], shardshuffle=False)
    return {s["__key__"]: {name: s[name] for name in sorted(s) if not name.startswith("__")} for s in samples}


def ordered(samples: Samples) -> list[tuple[str, dict[str, bytes]]]:
    return [(key, dict(sorted(members.items()))) for key, members in samples.items()]


def dropped(folder: Path) -> list[Dropped]:
    return [Dropped(**json.loads(line)) for line in (folder / "dropped.jsonl").read_text().splitlines()]


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"shards": (str(tmp_path / "in"),), "output": tmp_path / "out", "workers": 1} | changes


def test_equal_pictures_are_written_once_and_the_first_is_named(tmp_path: Path) -> None:
    samples = made(25)
    for later, earlier in ((3, 1), (12, 1), (24, 20)):
        samples[f"{later:06d}"]["jpg"] = samples[f"{earlier:06d}"]["jpg"]
    samples["000007"] = {"txt": b"no picture"}
    samples["000008"] = {"txt": b"no picture"}
    write(tmp_path / "in", samples)
    report = make_dedup(DedupConfig(**settings(tmp_path)))
    assert ordered(read(tmp_path / "out")) == [
        entry for entry in ordered(samples) if entry[0] not in ("000003", "000012", "000024")
    ]
    assert [(drop.source, drop.of) for drop in dropped(tmp_path / "out")] == [
        ("00000.tar/000003", "00000.tar/000001"),
        ("00001.tar/000012", "00000.tar/000001"),
        ("00002.tar/000024", "00002.tar/000020"),
    ]
    assert report.counts == {"samples read": 25, "samples written": 22, "shards": 1}
    report = make_dedup(DedupConfig(**settings(tmp_path, by="sample", output=tmp_path / "whole")))
    assert report.dropped.counts == {"sample has the same bytes": 1}
    assert dropped(tmp_path / "whole")[0].source == "00000.tar/000008"


def test_the_first_equal_row_is_that_of_a_double_loop() -> None:
    marks = np.random.default_rng(0).integers(0, 4, (200, 2)).astype(np.uint64)
    slow = [
        next(
            earlier
            for earlier in range(row + 1)
            if earlier == row or (marks[row].any() and (marks[earlier] == marks[row]).all())
        )
        for row in range(200)
    ]
    assert first_equal(marks).tolist() == slow


@pytest.mark.parametrize("distance", [0, 1, 4, 9, 16])
def test_groups_of_near_hashes_are_those_of_all_pairs(distance: int) -> None:
    source = random.Random(distance)
    hashes = [source.getrandbits(64) for _ in range(60)]
    for _ in range(240):  # chains of neighbours, and exact repetitions
        flips = source.sample(range(64), source.randint(0, max(1, distance + 1)))
        hashes.append(source.choice(hashes) ^ sum(1 << bit for bit in flips))
    source.shuffle(hashes)
    near = [(a, b) for a in range(300) for b in range(300) if (hashes[a] ^ hashes[b]).bit_count() <= distance]
    pairs = np.array(near).T
    _, labels = connected_components(coo_array((np.ones(len(near)), (pairs[0], pairs[1])), shape=(300, 300)))
    expected = [int(np.flatnonzero(labels == label)[0]) for label in labels]
    assert first_alike(np.array(hashes, np.uint64), distance).tolist() == expected


def test_pictures_that_look_alike_are_found_by_a_perceptual_hash(tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    source = random.Random(4)
    images = [
        Image.frombytes("RGB", (12, 12), source.randbytes(432)).resize((96, 96), Image.Resampling.BICUBIC)
        for _ in range(4)
    ]
    samples: Samples = {f"{n}": {"jpg": encoded(image, quality=95), "txt": b"x"} for n, image in enumerate(images)}
    samples["smaller"] = {"jpg": encoded(images[1].resize((64, 64)), quality=80), "txt": b"x"}
    samples["png"] = {"png": encoded(images[2], "PNG"), "txt": b"x"}
    samples["same"] = {"jpg": samples["3"]["jpg"], "txt": b"x"}
    samples |= {
        f"flat{n}": {"png": encoded(Image.new("RGB", (9, 9), (n, n, n)), "PNG"), "txt": b"x"} for n in (10, 200)
    }
    samples["cut"] = {"jpg": samples["0"]["jpg"][:300], "txt": b"x"}
    write(tmp_path / "in", samples)
    report = make_dedup(DedupConfig(**settings(tmp_path, near="phash")))
    found = {drop.source.split("/")[1]: (drop.of.split("/")[1], drop.reason) for drop in dropped(tmp_path / "out")}
    alike = "picture looks the same (phash, 4 bits)"
    assert found == {"smaller": ("1", alike), "png": ("2", alike), "same": ("3", "picture has the same bytes")}
    assert report.notes == [
        "2 pictures of one colour were not compared by phash",
        "1 pictures that are too large or cannot be decoded were not compared",
    ]


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmclip_data.pipelines import dedup

    dedup._hash_function.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    with pytest.raises(UserError, match=r"pip install 'mmclip\[dedup\]'"):
        make_dedup(DedupConfig(**settings(tmp_path, near="dhash")))
