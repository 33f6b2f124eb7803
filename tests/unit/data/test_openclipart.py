"""The jobs on real dirty data: Debian's OpenClipart, with its duplicates, odd modes, huge pictures and bad titles."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmclip_data.pipelines.caption_rules import CaptionRules
from mmclip_data.pipelines.check import CheckConfig, check_shards
from mmclip_data.pipelines.dedup import DedupConfig, make_dedup
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.pipelines.openclipart import INSIDE, clip_art, main
from mmclip_data.pipelines.repack import RepackConfig, make_repack
from mmclip_data.pipelines.table import TableConfig, make_table
from mmclip_data.shards import ShardWriter

pytestmark = pytest.mark.slow

CACHE = Path(__file__).parents[3] / "data" / "openclipart-packages"
PACKAGES = ("openclipart-png", "openclipart-svg")
SPECIAL = "^png/(computer|shapes|special|unsorted|logos|buttons|decorations)/"


@pytest.fixture(scope="module")
def root() -> Path:
    """The packages as they are installed, or those of `data/openclipart-packages`; docs/jobs.md tells how to fetch them."""
    if (Path("/") / INSIDE / "svg").is_dir() and (Path("/") / INSIDE / "png").is_dir():
        return Path("/") / INSIDE
    packages = [next(CACHE.glob(f"{name}_*.deb"), None) for name in PACKAGES]
    if any(package is None for package in packages):
        pytest.skip(f"no {' and '.join(PACKAGES)} in {CACHE}; docs/jobs.md has the commands")
    unpacked = CACHE / "unpacked"
    if not (unpacked / INSIDE / "svg").is_dir():
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True)
    return unpacked / INSIDE


@pytest.fixture(scope="module")
def dirty(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of all of it as it is, with whatever title there is."""
    folder = tmp_path_factory.mktemp("dirty")
    with ShardWriter(folder, "{:05d}.tar", 2000) as writer:
        for number, entry in enumerate(clip_art(root)):
            payload = (root / entry["filepath"]).read_bytes()
            facts = json.dumps(entry, ensure_ascii=False).encode()
            writer.add(f"{number:06d}", {"png": payload, "txt": entry["title"].encode(), "json": facts})
    return folder


def settings(dirty: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {"shards": (str(dirty),), "output": output, "workers": 2} | changes


def test_check_finds_the_empty_titles_and_the_huge_pictures(dirty: Path) -> None:
    report = check_shards(CheckConfig(shards=(str(dirty),), workers=2))
    assert report.totals["samples"] == 8121
    counts = {kind: (effect, count) for effect, kind, count, _, _ in report.rows()}
    assert counts == {"caption is empty": ("lost", 61), "more than 50,000,000 pixels": ("lost", 16)}


def test_dedup_finds_every_byte_identical_picture(dirty: Path, tmp_path: Path) -> None:
    report = make_dedup(DedupConfig(**settings(dirty, tmp_path / "once")))
    assert report.dropped.counts == {"picture has the same bytes": 1221}
    assert report.counts["samples written"] == 6900


def test_filter_keeps_what_is_worth_learning_from(dirty: Path, tmp_path: Path) -> None:
    where = f"not matches(filepath, {SPECIAL!r})"
    config = FilterConfig(**settings(dirty, tmp_path / "some", where=where, caption=CaptionRules(min_length=1)))
    report = make_filter(config)
    assert report.counts["samples written"] == 3860
    assert report.dropped.counts == {"where is false": 4218, "no caption": 43}


def test_repack_scales_every_mode_and_training_would_lose_only_the_untitled(dirty: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"short_side": 64, "format": "webp", "shuffle_seed": 0, "samples_per_shard": 3000}
    report = make_repack(RepackConfig(**settings(dirty, tmp_path / "small", **changes)))
    assert report.counts == {"samples read": 8121, "samples written": 8105, "shards": 3}
    assert report.dropped.counts == {"picture has more than 50,000,000 pixels": 16}
    small = check_shards(CheckConfig(shards=(str(tmp_path / "small"),), decode=True, workers=2))
    assert [(kind, count) for _, kind, count, _, _ in small.rows()] == [("caption is empty", 61)]


def test_the_table_of_the_documentation_gives_clean_shards(root: Path, tmp_path: Path) -> None:
    main(root, tmp_path / "captions.jsonl")
    source, output = tmp_path / "captions.jsonl", tmp_path / "out"
    config = TableConfig(source=source, output=output, image_root=root, decode=False, workers=2)
    report = make_table(config)
    assert report.counts["train samples"] == 8044
    assert report.dropped.counts == {"no caption": 61, "picture has more than 50,000,000 pixels": 16}
    assert not check_shards(CheckConfig(shards=(str(tmp_path / "out/train"),), workers=2)).loses
