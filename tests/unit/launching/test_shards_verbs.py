"""`mmclip shards ...` from its words to its exit code: each job runs, each mistake is one message."""

import json
from pathlib import Path

import pytest

from mmclip_data.shards import ShardWriter, index_path, open_index
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.cli import dispatch, run_verb
from mmclip_launch.shards import MAKERS, REWRITERS, VERBS


def shards(*words: str) -> int:
    """The exit code of `mmclip shards WORDS`."""
    try:
        return run_verb(dispatch, ["shards", *words])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else -1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with twelve samples, of which the last repeats the picture of the first."""
    samples = make_shard(11).samples
    samples["000099"] = {"jpg": samples["000000"]["jpg"], "txt": b"again", "json": b'{"number": 99}'}
    with ShardWriter(tmp_path / "in", "{:05d}.tar", 6) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return tmp_path / "in"


def samples_in(folder: Path) -> int:
    return sum(open_index(tar).num_samples for tar in folder.glob("*.tar"))


def test_check_ends_with_zero_only_where_nothing_would_be_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards("check", str(folder), "--decode", "--workers", "1") == 0
    assert "12 samples" in (out := capsys.readouterr().out)
    assert "a run would lose nothing" in out
    with ShardWriter(folder, "{:05d}x.tar", 6) as writer:
        writer.add("empty", {"jpg": make_shard(1).samples["000000"]["jpg"], "txt": b""})
    assert shards("check", str(folder), "--workers", "1") == 1
    out = capsys.readouterr().out
    assert "caption is empty" in out
    assert "a run would lose something" in out
    assert shards("check", str(folder), "--json", "--workers", "1", "--names", str(folder.parent / "n.jsonl")) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["loses"] is True
    assert [finding["kind"] for finding in facts["findings"]] == ["caption is empty"]
    assert "empty" in (folder.parent / "n.jsonl").read_text()


def test_filter_dedup_and_repack_take_their_shards_as_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent
    tars = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    assert shards("filter", *tars, "--output", str(out / "f"), "--where", "number < 4", "--workers", "1") == 0
    assert samples_in(out / "f") == 4
    assert "dropped 8 (where is false)" in capsys.readouterr().err
    assert shards("filter", *tars, "--output", str(out / "c"), "--caption.max_words", "1", "--workers", "1") == 0
    assert shards("dedup", str(folder), "--output", str(out / "d"), "--workers", "1") == 0
    assert samples_in(out / "d") == 11
    words = ("--output", str(out / "r"), "--short_side", "16", "--samples_per_shard", "5", "--workers", "1")
    assert shards("repack", str(folder), *words) == 0
    assert sorted(tar.name for tar in (out / "r").glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]


def test_make_table_tells_how_it_read_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(make_shard(1).samples["000000"]["jpg"])
    (tmp_path / "t.csv").write_text("filepath,title\na.jpg,a boat\n")
    words = ("make", "table", "--source", str(tmp_path / "t.csv"), "--output", str(tmp_path / "o"), "--workers", "1")
    assert shards(*words) == 0
    told = capsys.readouterr().err
    assert "picture from 'filepath', caption from 'title', separated by ','" in told
    assert "train samples: 1" in told


def test_stats_prints_the_numbers_and_draws_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in ("png", "svg"):
        assert shards("stats", str(folder), "--output", str(folder.parent / f"s.{ending}")) == 0
    assert (folder.parent / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "median" in (folder.parent / "s.svg").read_text() or "<svg" in (folder.parent / "s.svg").read_text()
    assert "12 samples in 2 shards; 12 jpeg" in capsys.readouterr().out
    assert shards("stats", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["short side"]["p50"] == 24


def test_index_writes_what_is_missing(folder: Path) -> None:
    tar = folder / "00000.tar"
    index_path(tar).unlink()
    assert shards("index", str(folder)) == 0
    assert open_index(tar).num_samples == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected: mmclip shards make folder|table"),
        (("mkae",), "did you mean 'make'?"),
        (("make", "foldr"), "did you mean 'folder'?"),
        (("filter",), "--shards"),
        (("filter", "in", "--output", "o", "--whree", "1"), "did you mean --where?"),
        (("check", "nowhere"), "nothing at nowhere"),
        (("stats", "in", "--output", "a.jpeg"), "expected a name that ends in .png or .svg"),
    ],
)
def test_a_mistake_is_one_message(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert shards(*words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize("verb", [*VERBS, *(f"make {kind}" for kind in MAKERS)])
def test_every_verb_has_help_that_names_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = verb.split()
    assert shards(*words, "--help") == 0
    told = capsys.readouterr().out
    if len(words) > 1 or verb in REWRITERS:
        assert "--output" in told
        assert "--overwrite" in told
