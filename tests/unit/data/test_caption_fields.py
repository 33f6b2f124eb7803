"""Captions that nobody named: a run, `check` and `filter` find the same ones, whoever wrote the shards."""

import json
from pathlib import Path

import pytest

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.captions import captions_of
from mmclip_data.loading.census import refuse_unusable
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.pipelines.caption_rules import CaptionRules
from mmclip_data.pipelines.check import CheckConfig, check_shards
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard

JPEG = make_shard(1).samples["000000"]["jpg"]
Members = dict[str, bytes]


def table(**facts: object) -> bytes:
    return json.dumps(facts).encode()


SHARDS: dict[str, tuple[list[Members], tuple[str, ...], int]] = {
    "one member": ([{"text": b"a"}] * 6, ("text",), 0),
    "each tool its own": (
        [{"txt": b"a"}, {"txt": b"a"}, {"text": b"b"}, {"caption": b"c"}],
        ("txt", "text", "caption"),
        0,
    ),
    "two in each": ([{"txt": b"a", "caption": b"long"}] * 4, ("txt",), 0),
    "two in some": ([{"txt": b"a"}] * 3 + [{"txt": b"a", "text": b"b"}], ("txt",), 0),
    "img2dataset": ([{"txt": b"a", "json": table(caption="a", url="u")}] * 4, ("txt",), 0),
    "json alone": ([{"json": table(captions=["a", "b"], n=1)}] * 4, ("json:captions",), 0),
    "json for the rest": ([{"txt": b"a"}] * 3 + [{"json": table(text="b")}] * 3, ("txt", "json:text"), 0),
    "some without": ([{"txt": b"a"}] * 20 + [{"json": table(width=3)}], ("txt",), 1),
    "some empty": ([{"txt": b"a"}] * 3 + [{"txt": b" "}], ("txt",), 1),
}


def write(folder: Path, samples: list[Members], per_shard: int = 2) -> Path:
    with ShardWriter(folder, "{}.tar", samples_per_shard=per_shard) as writer:
        for number, members in enumerate(samples):
            writer.add(f"{number:04d}", {"jpg": JPEG, **members})
    return folder


@pytest.mark.parametrize("name", SHARDS)
def test_check_and_a_run_look_in_the_same_places(name: str, tmp_path: Path) -> None:
    samples, fields, lost = SHARDS[name]
    folder = write(tmp_path, samples)
    opened = open_source(IndexedTarsConfig(shards=str(folder)), None)
    assert opened.captions == fields
    refuse_unusable(opened, 0.5)
    refused = 0
    for shard, size in enumerate(opened.source.shard_sizes.tolist()):
        for row in range(size):
            try:
                captions_of(opened.source.read(shard, row), opened.captions)
            except BadSampleError:
                refused += 1
    report = check_shards(CheckConfig(shards=(str(folder),), workers=1))
    found = [finding for finding in report.findings if finding.effect == "lost"]
    assert sum(finding.count for finding in found) == refused == lost, found


def test_filter_finds_captions_in_json(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [{"json": table(caption=text)} for text in ("a cat", "a black cat", "dog")])
    rules = CaptionRules(min_words=2)
    config = FilterConfig(shards=(str(folder),), output=tmp_path / "out", caption=rules, workers=1)
    assert make_filter(config).counts["samples written"] == 2
    again = make_filter(config)
    assert "finished before" in again.notes[0]


def test_a_refusal_names_the_keys_of_json(tmp_path: Path) -> None:
    opened = open_source(
        IndexedTarsConfig(shards=str(write(tmp_path, [{"json": table(meta={"alt": "x"}, id=1)}] * 4))), None
    )
    with pytest.raises(UserError, match=r"members there: .*json \(4\).*; keys of json: meta, id\. Name the right"):
        refuse_unusable(opened, 0.01)
