"""Repacking, filtering and deduplication: each sample is copied or named, whatever the number of workers."""

import io
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.loading.decode import decode_image
from mmclip_data.pipelines.caption_rules import CaptionRules, script_share
from mmclip_data.pipelines.dedup import DedupConfig, make_dedup
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.pipelines.job import Dropped
from mmclip_data.pipelines.repack import RepackConfig, make_repack
from mmclip_data.shards import ShardWriter, build_index, index_path, open_index
from mmclip_data.testing.shard_faults import overwrite, picture

Samples = dict[str, dict[str, bytes]]


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder: Path, samples: Mapping[str, Mapping[str, bytes]], per_shard: int = 10) -> Path:
    with ShardWriter(folder, "{:05d}.tar", per_shard) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return folder


def made(count: int = 25) -> Samples:
    source = random.Random(1)
    return {
        f"{n:06d}": {
            "jpg": picture(source, 16 + n),
            "txt": f"caption {n}".encode(),
            "json": json.dumps({"similarity": n / 100, "uid": f"{n:032x}", "nested": {"deep": n}}).encode(),
        }
        for n in range(count)
    }


def read(folder: Path) -> Samples:
    """What stock webdataset reads, in order; the indexes must be those of the tars."""
    tars = sorted(folder.glob("*.tar"))
    for tar in tars:
        assert build_index(tar).fingerprint == open_index(tar).fingerprint
    samples = WebDataset([str(tar) for tar in tars], shardshuffle=False)
    return {s["__key__"]: {name: s[name] for name in sorted(s) if not name.startswith("__")} for s in samples}


def ordered(samples: Samples) -> list[tuple[str, dict[str, bytes]]]:
    return [(key, dict(sorted(members.items()))) for key, members in samples.items()]


def dropped(folder: Path) -> list[Dropped]:
    return [Dropped(**json.loads(line)) for line in (folder / "dropped.jsonl").read_text().splitlines()]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"shards": (str(tmp_path / "in"),), "output": tmp_path / "out", "workers": 1} | changes


def filtered(tmp_path: Path, **changes: Any) -> Samples:
    make_filter(FilterConfig(**settings(tmp_path, overwrite=True, **changes)))
    return read(tmp_path / "out")


# Filter


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("similarity > 0.1", lambda n: n / 100 > 0.1),
        ("width >= 20 and height < 30", lambda n: 20 <= 16 + n < 30),
        ("not (short_side == 20) and 10 < long_side <= 39", lambda n: n != 4 and n <= 23),
        ("pixels / 16 >= aspect * 25", lambda n: (16 + n) ** 2 / 16 >= 25),
        ("json.nested is not None and key in ('000001', '000002')", lambda n: n in (1, 2)),
        ("matches(caption, '^caption 1.$') or startswith(lower(caption), 'caption 2')", lambda n: n >= 10 or n == 2),
        ("len(caption) == caption_length and caption_words == 2 and format == 'jpeg'", lambda n: True),
        ("abs(similarity - 0.05) < 0.025", lambda n: 3 <= n <= 7),
        ("shard != '00000.tar'", lambda n: n >= 10),
        ("-similarity % 2 > 1.9", lambda n: n and n < 10),
    ],
)
def test_a_condition_keeps_what_python_would_keep(tmp_path: Path, where: str, keeps: Callable[[int], bool]) -> None:
    samples = made()
    write(tmp_path / "in", samples)
    expected = {f"{n:06d}" for n in range(25) if keeps(n)}
    report = make_filter(FilterConfig(**settings(tmp_path, where=where)))
    kept = read(tmp_path / "out")
    assert ordered(kept) == [entry for entry in ordered(samples) if entry[0] in expected]
    assert report.dropped.counts == ({"where is false": 25 - len(kept)} if len(kept) < 25 else {})
    assert {drop.source.split("/")[1] for drop in dropped(tmp_path / "out")} == samples.keys() - expected


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('touch canary')",
        "().__class__",
        "caption.__class__",
        "[x for x in range(9)]",
        "(lambda: 1)()",
        "open('canary', 'w')",
        "similarity ** 9999999",
        "exec('1')",
        "f'{caption}'",
        "json.x.y",
        "len(caption, 2)",
        "caption[0] == 'a'",
        "a := 1",
        "1 << 99",
        "",
        "similarity >",
        "(" * 300 + ")" * 300,
    ],
)
def test_a_condition_is_never_run_as_code(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", made(2))
    with pytest.raises(UserError, match="where"):
        make_filter(FilterConfig(**settings(tmp_path, where=where)))
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "out").exists()


def test_texts_cannot_be_multiplied(tmp_path: Path) -> None:
    write(tmp_path / "in", made(2))
    with pytest.raises(UserError, match="cannot be worked out.*expected a number, got str"):
        make_filter(FilterConfig(**settings(tmp_path, where="len(caption * 1000000000) > 1")))


def test_a_sample_without_the_field_is_named_and_a_name_that_none_has_is_refused(tmp_path: Path) -> None:
    samples = made(5)
    samples["000002"]["json"] = b"{}"
    samples["000003"]["json"] = b"{"
    samples["000004"]["json"] = b'{"similarity": "high"}'
    write(tmp_path / "in", samples)
    assert filtered(tmp_path, where="similarity >= 0").keys() == {"000000", "000001"}
    found = [(drop.source, drop.reason) for drop in dropped(tmp_path / "out")]
    assert found == [
        ("00000.tar/000002", "no field similarity"),
        ("00000.tar/000003", "sample cannot be read"),
        ("00000.tar/000004", "where cannot be worked out"),
    ]
    assert filtered(tmp_path, where="similarity is None").keys() == {"000002"}
    with pytest.raises(UserError, match="no field 'similarty' in 5 samples looked at; did you mean 'similarity'"):
        make_filter(FilterConfig(**settings(tmp_path, where="similarty >= 0", overwrite=True)))


def test_fields_come_from_the_parquet_file_beside_the_tar(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    samples = made(25)
    write(tmp_path / "in", samples)
    for number in range(3):
        rows = [{"key": f"{n:06d}", "score": n % 4, "jpg": b"x"} for n in range(10 * number, min(25, 10 * number + 10))]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in" / f"{number:05d}.parquet")
    expected = [f"{n:06d}" for n in range(25) if n % 4 == 3 and n / 100 > 0.05]
    assert list(filtered(tmp_path, where="parquet.score == 3 and score == 3 and similarity > 0.05")) == expected


def test_a_datacomp_subset_keeps_its_uids(tmp_path: Path) -> None:
    samples = made(20)
    wide = random.Random(3)
    uids = {key: wide.getrandbits(128) | 1 << 127 for key in samples}
    uids["000001"] = uids["000000"] ^ 1  # the same high half
    for key, members in samples.items():
        members["json"] = json.dumps({"uid": f"{uids[key]:032x}"}).encode()
    write(tmp_path / "in", samples)
    wanted = [key for key in samples if int(key) % 3 == 0]
    pairs = [(uids[key] >> 64, uids[key] & (1 << 64) - 1) for key in wanted] + [(5, 7)]
    np.save(tmp_path / "subset.npy", np.array(pairs, np.dtype("u8,u8")))
    report = make_filter(FilterConfig(**settings(tmp_path, uids=tmp_path / "subset.npy")))
    assert list(read(tmp_path / "out")) == wanted
    assert report.notes == ["8 uids asked for, 7 samples have one of them"]
    np.save(tmp_path / "other.npy", np.arange(4))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("other.npy", "objects.npy", "gone.npy"):
        with pytest.raises(UserError, match=rf"uids=.*{name}"):
            make_filter(FilterConfig(**settings(tmp_path, uids=tmp_path / name)))


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"min_length": 4}, {"latin", "mixed", "russian"}),
        ({"max_length": 5}, {"short", "japanese", "mixed"}),
        ({"min_words": 2}, {"latin", "russian"}),
        ({"max_words": 1}, {"short", "japanese", "mixed"}),
        ({"matches": r"(?i)CAT"}, {"latin"}),
        ({"excludes": r"\d"}, {"latin", "japanese", "mixed", "russian"}),
        ({"script": "latin"}, {"latin", "short"}),
        ({"script": "cyrillic"}, {"russian"}),
        ({"script": "kana"}, {"japanese"}),
        ({"script": "cjk", "script_share": 0.4}, {"japanese", "mixed"}),
        ({"script": "latin", "min_length": 4}, {"latin"}),
    ],
)
def test_caption_rules_keep_the_captions_that_fit(tmp_path: Path, rules: dict[str, Any], kept: set[str]) -> None:
    texts = {"latin": "Ein Café, a cat", "short": "a1", "japanese": "ねこ", "mixed": "a猫犬鳥b", "russian": "Кот спит"}
    jpg = made(1)["000000"]["jpg"]
    write(tmp_path / "in", {key: {"jpg": jpg, "txt": text.encode()} for key, text in texts.items()})
    assert filtered(tmp_path, caption=CaptionRules(**rules)).keys() == kept
    assert len(dropped(tmp_path / "out")) == 5 - len(kept)


def test_scripts_are_those_of_letters_only() -> None:
    assert script_share("１２３ abc ＡＢＣ!", "latin") == 1.0
    assert script_share("123 !?", "latin") == 0.0
    assert script_share("한국어 ab", "hangul") == 3 / 5


def test_nothing_to_filter_by_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", made(2))
    with pytest.raises(UserError, match="nothing to filter by"):
        make_filter(FilterConfig(**settings(tmp_path)))
    with pytest.raises(UserError, match="not a regular expression"):
        make_filter(FilterConfig(**settings(tmp_path, caption=CaptionRules(matches="("))))
    with pytest.raises(UserError, match="no sample is left to write; dropped 2"):
        make_filter(FilterConfig(**settings(tmp_path, where="width > 10000")))


# Repacking


def test_pictures_are_scaled_to_the_short_side_and_all_else_is_copied(tmp_path: Path) -> None:
    image = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    samples: Samples = {
        "wide": {"jpg": encoded(image), "txt": b"x", "json": b'{"width": 300}'},
        "tall": {"png": encoded(image.rotate(90, expand=True), "PNG"), "txt": b"y"},
        "small": {"webp": encoded(image.resize((60, 40)), "WEBP"), "txt": b"z"},
        "clear": {"png": encoded(Image.new("RGBA", (200, 200), (0, 0, 0, 0)), "PNG"), "txt": b"w"},
        "turned": {
            "jpeg": encoded(image, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
            "txt": b"v",
        },
        "misnamed": {"jpg": encoded(image, "WEBP"), "txt": b"u"},
    }
    write(tmp_path / "in", samples)
    make_repack(RepackConfig(**settings(tmp_path, short_side=100)))
    new = read(tmp_path / "out")
    sizes = {
        key: decode_image(next(members[e] for e in ("jpg", "png", "webp") if e in members)).size
        for key, members in new.items()
    }
    assert sizes == {
        "wide": (150, 100),
        "tall": (100, 150),
        "small": (60, 40),
        "clear": (100, 100),
        "turned": (100, 150),
        "misnamed": (150, 100),
    }
    assert {key: set(members) for key, members in new.items()} == {
        "wide": {"jpg", "txt", "json"},
        "tall": {"png", "txt"},
        "small": {"webp", "txt"},
        "clear": {"png", "txt"},
        "turned": {"jpg", "txt"},
        "misnamed": {"webp", "txt"},
    }
    assert new["small"] == samples["small"]
    assert all(new[key]["txt"] == samples[key]["txt"] for key in samples)
    assert new["wide"]["json"] == samples["wide"]["json"]
    assert decode_image(new["clear"]["png"]).getpixel((5, 5)) == (255, 255, 255)
    expected = np.asarray(image.resize((150, 100), Image.Resampling.LANCZOS), float)
    assert np.abs(np.asarray(decode_image(new["wide"]["jpg"]), float) - expected).mean() < 6
    header = json.loads((tmp_path / "out" / "job.jsonl").read_text().splitlines()[0])
    assert header["settings"]["short_side"] == 100
    assert header["settings"]["encoders"].keys() >= {"pillow", "libjpeg_turbo", "webp"}


def test_a_format_is_given_to_every_picture_and_quality_decides_its_size(tmp_path: Path) -> None:
    write(tmp_path / "in", made(6))
    bytes_of = {}
    for quality in (20, 95):
        make_repack(RepackConfig(**settings(tmp_path, format="webp", quality=quality, output=tmp_path / str(quality))))
        samples = read(tmp_path / str(quality))
        assert all(set(members) == {"webp", "txt", "json"} for members in samples.values())
        bytes_of[quality] = sum(len(members["webp"]) for members in samples.values())
    assert bytes_of[20] < bytes_of[95]


def test_without_changes_to_pictures_shards_are_only_cut_anew_or_mixed(tmp_path: Path) -> None:
    samples = made(25)
    write(tmp_path / "in", samples)
    make_repack(RepackConfig(**settings(tmp_path, samples_per_shard=7)))
    assert ordered(read(tmp_path / "out")) == ordered(samples)
    assert [open_index(tar).num_samples for tar in sorted((tmp_path / "out").glob("*.tar"))] == [7, 7, 7, 4]
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        make_repack(RepackConfig(**settings(tmp_path, shuffle_seed=seed, output=tmp_path / f"mixed{number}")))
        mixed = read(tmp_path / f"mixed{number}")
        assert dict(ordered(mixed)) == dict(ordered(samples))
        orders.append(list(mixed))
    assert orders[0] == orders[1] != orders[2] != list(samples)


def test_what_cannot_be_decoded_or_was_changed_is_named(tmp_path: Path) -> None:
    samples = made(6)
    samples["000001"]["jpg"] = samples["000001"]["jpg"][:-50]
    samples["000002"]["jpg"] = b"<html>"
    samples["000003"]["png"] = encoded(Image.new("L", (90, 90)), "PNG")
    write(tmp_path / "in", samples)
    tar = tmp_path / "in" / "00000.tar"
    index = open_index(tar)
    tar.write_bytes(overwrite(tar.read_bytes(), index.members(4)["jpg"].offset + 50, b"\0\0\0"))
    report = make_repack(RepackConfig(**settings(tmp_path, format="webp")))
    assert read(tmp_path / "out").keys() == {"000000", "000005"}
    assert report.dropped.counts == {
        "picture cannot be decoded": 2,
        "two pictures in one sample": 1,
        "bytes are not those that were indexed": 1,
    }


# All of them


JOBS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "filter": lambda s: make_filter(FilterConfig(**s, where="width % 3 > 0")),
    "dedup": lambda s: make_dedup(DedupConfig(**s, near="dhash", distance=2)),
    "repack": lambda s: make_repack(RepackConfig(**s, short_side=12, format="jpg", shuffle_seed=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, job: str) -> None:
    pytest.importorskip("imagehash")
    write(tmp_path / "in", made(150), 40)
    for workers in (1, 2):
        JOBS[job](settings(tmp_path, samples_per_shard=30, workers=workers, output=tmp_path / str(workers)))
    assert everything(tmp_path / "1") == everything(tmp_path / "2")


@pytest.mark.parametrize("job", ["filter", "repack"])
def test_a_stopped_job_goes_on(tmp_path: Path, job: str) -> None:
    write(tmp_path / "in", made(50))
    run = JOBS[job]
    run(settings(tmp_path, samples_per_shard=9))
    expected = everything(tmp_path / "out")
    lines = (tmp_path / "out" / "job.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "job.jsonl").write_bytes(b"".join(lines[:3]))
    for tar in sorted((tmp_path / "out").glob("*.tar"))[2:]:
        tar.unlink()
    report = run(settings(tmp_path, samples_per_shard=9))
    assert everything(tmp_path / "out") == expected
    assert "went on behind 2 finished shards" in report.notes


def test_keys_of_several_shards_that_are_the_same_must_be_numbered(tmp_path: Path) -> None:
    write(tmp_path / "in", made(3))
    write(tmp_path / "more", made(3))
    both = (str(tmp_path / "in"), str(tmp_path / "more"))
    with pytest.raises(UserError, match=r"have one key \(3 keys come again\).*--keys number"):
        make_repack(RepackConfig(**settings(tmp_path, shards=both)))
    make_repack(RepackConfig(**settings(tmp_path, shards=both, keys="number")))
    assert list(read(tmp_path / "out")) == [f"s{n:07d}" for n in range(6)]


def test_shards_without_an_index_get_one_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", made(3))
    tar = tmp_path / "in" / "00000.tar"
    index_path(tar).unlink()
    make_repack(RepackConfig(**settings(tmp_path, index_folder=tmp_path / "indexes")))
    assert index_path(tar, tmp_path / "indexes").is_file()
    assert not index_path(tar).exists()
    raw = tar.read_bytes()
    tar.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(UserError, match=r"00000\.tar"):
        make_repack(RepackConfig(**settings(tmp_path, output=tmp_path / "again")))
    tar.write_bytes(raw)
    with pytest.raises(UserError, match="is the folder of"):
        make_repack(RepackConfig(**settings(tmp_path, output=tmp_path / "in")))
