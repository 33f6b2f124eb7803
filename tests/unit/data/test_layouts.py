"""What people have on disk, named as it is: which captions are chosen, and what is said when counts do not agree."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmclip.batch import DataPosition
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.captions import captions_of, members_of
from mmclip_data.loading.census import refuse_unusable
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.promised_counts import broken_promises
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig
from mmclip_data.shards import build_index, index_path, write_index


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 5), (9, 99, 200)).save(out, kind)
    return out.getvalue()


def write(folder: Path, pattern: str, members: dict[str, bytes], count: int = 3, shards: int = 2) -> Path:
    """Plain tars of the standard library, indexed where they stand."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        path = folder / pattern.format(shard)
        with tarfile.open(path, "w") as tar:
            for number in range(shard * count, (shard + 1) * count):
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        write_index(build_index(path), index_path(path))
    return folder


LAYOUTS: dict[str, tuple[str, dict[str, bytes], str]] = {
    "img2dataset": (
        "{:05d}.tar",
        {"jpg": picture("JPEG"), "txt": b"a dog", "json": json.dumps({"caption": "x", "status": "success"}).encode()},
        "txt",
    ),
    "DataComp": (
        "{:08d}.tar",
        {"jpg": picture("JPEG"), "txt": b"a dog", "json": json.dumps({"uid": "0" * 32, "text": "x"}).encode()},
        "txt",
    ),
    "cc3m-wds": ("cc3m-train-{:04d}.tar", {"jpg": picture("JPEG"), "txt": b"a dog"}, "txt"),
    "captions in text": ("{:d}.tar", {"webp": picture("WEBP"), "text": b"a dog"}, "text"),
    "captions in caption": ("{:d}.tar", {"PNG": picture(), "caption": b"a dog"}, "caption"),
    "captions in json": ("{:d}.tar", {"JPEG": picture("JPEG"), "json": b'{"caption": "a dog"}'}, "json:caption"),
    "several in json": ("{:d}.tar", {"png": picture(), "json": b'{"captions": ["a dog"], "n": 1}'}, "json:captions"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_it_is_and_the_choice_of_captions_is_said(name: str, tmp_path: Path):
    pattern, members, field = LAYOUTS[name]
    write(tmp_path, pattern, members)
    config = DataConfig(source=IndexedTarsConfig(shards=str(tmp_path)), workers=0)
    tokenize = lambda captions: torch.tensor([[len(text)] for text in captions])  # noqa: E731
    loader = TrainLoader(config, ImageSpec(size=(4, 4)), tokenize, Layout(6), 0)
    batch = next(loader.batches(DataPosition(0)))
    assert batch.tokens[:, 0].tolist() == [len("a dog")] * 6
    assert not batch.replaced
    assert loader.describe(6) == [f"captions of train from {field} (data.captions says otherwise)"]
    assert refuse_unusable(loader.opened, 0.0) == []


def test_members_that_are_not_read_cost_no_read(tmp_path: Path):
    pattern, members, _ = LAYOUTS["img2dataset"]
    opened = open_source(IndexedTarsConfig(shards=str(write(tmp_path, pattern, members))), None)
    assert {name for name in opened.source.read(0, 0) if not name.startswith("__")} == {"jpg", "txt"}


def test_clip_benchmarks_retrieval_has_a_caption_a_line(tmp_path: Path):
    (tmp_path / "dataset_type.txt").write_text("retrieval")
    write(tmp_path / "train", "{:d}.tar", {"webp": picture("WEBP"), "txt": b"a dog\na brown dog\n"})
    (tmp_path / "train" / "nshards.txt").write_text("2")
    opened = open_source(IndexedTarsConfig(shards=str(tmp_path / "train")), None)
    assert opened.captions == ("txt:lines",)
    assert captions_of(opened.source.read(0, 0), opened.captions) == [["a dog", "a brown dog"]]
    assert refuse_unusable(opened, 0.0) == []


def test_brace_lists_and_joined_parts_are_one_source(tmp_path: Path):
    for folder in ("a", "b"):
        write(tmp_path / folder, "{:03d}.tar", LAYOUTS["cc3m-wds"][1])
    opened = open_source(IndexedTarsConfig(shards=f"{tmp_path}/a/{{000..001}}.tar::{tmp_path}/b/*.tar"), None)
    assert opened.source.shard_sizes.tolist() == [3, 3, 3, 3]


def promise(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


PROMISES = {
    "sizes.json": ({"00000.tar": 3, "00001.tar": 3}, {"00000.tar": 3, "00001.tar": 4}, "4 in sizes.json, 3 in the tar"),
    "__len__": ("6", "7", "it says '7', the tars hold 6"),
    "00001_stats.json": ({"successes": 3}, {"successes": 9}, "9 successes, 3 samples"),
    "_info.json": (
        {"splits": {"train": {"filenames": ["00000.tar", "00001.tar"], "shard_lengths": [3, 3]}}},
        {"splits": {"train": {"filenames": ["00000.tar", "00001.tar"], "shard_lengths": [3, 5]}}},
        "00001.tar should have 5 samples, 3 are there",
    ),
}


@pytest.mark.parametrize("name", PROMISES)
def test_counts_that_others_wrote_are_compared_with_the_index(name: str, tmp_path: Path):
    kept, broken, told = PROMISES[name]
    write(tmp_path, "{:05d}.tar", LAYOUTS["cc3m-wds"][1])
    if name.endswith("_stats.json"):
        promise(tmp_path, "00000_stats.json", {"successes": 3})
    source = IndexedTarsConfig(shards=str(tmp_path)).build(("txt",))
    promise(tmp_path, name, kept)
    assert broken_promises(source) == []
    promise(tmp_path, name, broken)
    (line,) = broken_promises(source)
    assert told in line
    assert isinstance(source, IndexedTars)


def test_a_field_of_lines_is_a_field_and_another_word_is_not():
    assert members_of(("txt:lines", "json:lines")) == {"txt", "json"}
    with pytest.raises(UserError, match="'txt:words'.*'txt:lines' if each line is a caption"):
        members_of(("txt:words",))
