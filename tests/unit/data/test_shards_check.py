"""What a run would lose is found before it: each flaw by kind, effect and key, and nothing where there is none."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmclip.errors import BadSampleError
from mmclip_data.loading.captions import captions_of
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.sources import picture_of
from mmclip_data.pipelines.check import CheckConfig, CheckReport, Finding, check_shards
from mmclip_data.shards import ShardReader, ShardWriter, build_index, index_path, open_index, write_index
from mmclip_data.testing.shard_faults import lay_out, make_shard, overwrite, structural_damages

JPEG = make_shard(1).samples["000000"]["jpg"]


def image(size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind)
    return buffer.getvalue()


def write(folder: Path, samples: Mapping[str, Mapping[str, bytes]], name: str = "0.tar") -> Path:
    with ShardWriter(folder, name, samples_per_shard=None) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return writer.paths[0]


def sound(count: int = 3, first: int = 0) -> dict[str, dict[str, bytes]]:
    return {f"{n:06d}": {"jpg": JPEG, "txt": f"caption {n}".encode()} for n in range(first, first + count)}


def check(*tars: Path, **changes: Any) -> CheckReport:
    return check_shards(CheckConfig(**({"shards": tuple(map(str, tars)), "decode": True, "workers": 1} | changes)))


def flaws(report: CheckReport) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Effect and names by kind."""
    return {finding.kind: (finding.effect, tuple(name for name, _ in finding.names)) for finding in report.findings}


def test_sound_shards_have_no_findings(tmp_path: Path) -> None:
    tars = [write(tmp_path, sound(3, 3 * n), f"{n}.tar") for n in range(2)]
    (tmp_path / "nshards.txt").write_text("2\n")
    (tmp_path / "sizes.json").write_text('{"0.tar": 3, "1.tar": 3}')
    (tmp_path / "__len__").write_text("6")
    report = check(*tars, workers=2)
    assert report.findings == ()
    assert not report.loses
    size = sum(tar.stat().st_size for tar in tars)
    assert report.totals == {"shards": 2, "bytes": size, "samples": 6, "jpg": 6, "txt": 6}


FLAWED: dict[str, tuple[dict[str, bytes], str, str]] = {
    "no-picture": ({"txt": b"x"}, "no picture", "lost"),
    "no-caption": ({"jpg": JPEG}, "no caption (txt, text, caption)", "lost"),
    "empty": ({"jpg": JPEG, "txt": b" \n"}, "caption is empty", "lost"),
    "latin": ({"jpg": JPEG, "txt": "gr\xfcn".encode("latin-1")}, "caption is not UTF-8", "lost"),
    "utf16": ({"jpg": JPEG, "text": "gr\xfcn".encode("utf-16")}, "caption is not UTF-8", "lost"),
    "page": ({"jpg": b"<html></html>", "txt": b"x"}, "not a JPEG, PNG or WebP picture", "lost"),
    "moving": ({"png": image(kind="GIF"), "txt": b"x"}, "not a JPEG, PNG or WebP picture", "lost"),
    "cut": ({"jpg": JPEG[:-200], "txt": b"x"}, "picture cannot be decoded", "lost"),
    "bomb": ({"png": image((10_000, 6000)), "txt": b"x"}, "more than 50,000,000 pixels", "lost"),
    "ribbon": ({"png": image((404, 4)), "txt": b"x"}, "an aspect beyond 100 to 1", "lost"),
}


@pytest.mark.parametrize("name", FLAWED)
def test_each_flaw_of_a_sample_is_named_by_its_key(tmp_path: Path, name: str) -> None:
    members, kind, effect = FLAWED[name]
    tar = write(tmp_path, {"a": sound(1)["000000"], name: members, "z": sound(1)["000000"]})
    report = check(tar)
    assert flaws(report)[kind] == (effect, (name,))
    lost = {found for finding in report.findings if finding.effect == "lost" for found, _ in finding.names}
    assert lost == {name}
    assert sum(finding.count for finding in report.findings if finding.effect == "lost") == 1, (
        "once, by headers or bytes"
    )
    assert report.loses


def test_exactly_the_samples_that_training_refuses_are_lost(tmp_path: Path) -> None:
    samples = sound(4) | {name: dict(members) for name, (members, _, _) in FLAWED.items()}
    tar = write(tmp_path, samples)
    fields = ("txt", "text", "caption")
    index = open_index(tar)
    refused = set()
    with ShardReader(tar, index) as reader:
        for row in range(index.num_samples):
            sample = dict(reader.read(row))
            try:
                captions_of(sample, fields)
                decode_image(picture_of(sample))
            except BadSampleError:
                refused.add(index.key(row))
    report = check(tar)
    assert {name for finding in report.findings if finding.effect == "lost" for name, _ in finding.names} == refused
    assert refused == FLAWED.keys()


def test_a_webp_named_jpg_and_a_member_of_no_sample_are_only_noted(tmp_path: Path) -> None:
    shard = lay_out([("a", "jpg", image(kind="WEBP")), ("a", "txt", b"x"), ("", "hidden", b"x")])
    (tmp_path / "0.tar").write_bytes(shard.raw)
    found = flaws(check(tmp_path / "0.tar"))
    assert found == {
        "no index yet": ("note", ()),
        "extension says another format": ("note", ("1 of jpg holds webp",)),
        "member belongs to no sample": ("note", (".hidden",)),
    }


def test_captions_are_looked_for_where_the_run_looks(tmp_path: Path) -> None:
    samples = {
        "a": {"jpg": JPEG, "json": b'{"caption": "x"}'},
        "b": {"jpg": JPEG, "json": b'{"caption": ""}'},
        "c": {"jpg": JPEG, "json": b"{"},
    }
    tar = write(tmp_path, samples)
    found = {"caption is empty": ("lost", ("b",)), "json cannot be read": ("lost", ("c",))}
    assert flaws(check(tar, captions=("json:caption",))) == flaws(check(tar)) == found
    assert flaws(check(tar, captions=("txt", "text"))) == {"no caption (txt, text)": ("lost", ("a", "b", "c"))}


def test_shards_with_labels_in_place_of_captions_are_data_to_score_on(tmp_path: Path) -> None:
    report = check(write(tmp_path, {f"s{n}": {"jpg": JPEG, "cls": b"1"} for n in range(3)}))
    assert flaws(report) == {"no captions but class labels: data to score on": ("note", ())}
    assert not report.loses


def test_changed_bytes_are_found_by_the_index_and_named(tmp_path: Path) -> None:
    tar = write(tmp_path, sound())
    place = open_index(tar).members(1)["txt"].offset
    raw = tar.read_bytes()
    tar.write_bytes(overwrite(raw, place, b"C"))
    assert flaws(check(tar)) == {"bytes are not those that were indexed": ("lost", ("000001",))}
    tar.write_bytes(raw + bytes(512))
    assert flaws(check(tar)) == {"the tar was changed after it was indexed": ("refused", ())}
    tar.write_bytes(raw)
    index_path(tar).write_bytes(b"x" * 100)
    assert flaws(check(tar)) == {"the index cannot be read": ("refused", ())}


def test_every_damage_to_a_tar_without_an_index_is_found_and_what_is_whole_is_counted(tmp_path: Path) -> None:
    shard = make_shard()
    for damage in structural_damages(shard)[::5]:
        tar = tmp_path / "0.tar"
        tar.write_bytes(damage.raw)
        report = check(tar, decode=False)
        assert report.loses, damage.name
        assert "the tar is damaged or no tar" in flaws(report), damage.name
        if damage.intact and report.shards[0].samples:
            assert report.shards[0].samples >= len(damage.intact) - 1, damage.name


def test_a_damaged_tar_with_an_index_tells_which_samples_a_run_would_lose(tmp_path: Path) -> None:
    shard = make_shard(6)
    tar = tmp_path / "0.tar"
    tar.write_bytes(shard.raw)
    write_index(build_index(tar), index_path(tar))
    third = next(member for member in shard.members if member.key == "000002")
    tar.write_bytes(overwrite(shard.raw, third.header, bytes(third.end - third.header)))
    found = flaws(check(tar))
    assert found["the tar is damaged or no tar"][0] == "refused"
    assert found["bytes are not those that were indexed"] == ("lost", ("000002",))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x1f\x8b" + bytes(600)])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    report = check(tmp_path / "0.tar")
    assert flaws(report)["the tar is damaged or no tar"][0] == "refused"
    assert report.totals["samples"] == 0


def test_keys_and_shards_that_come_again_are_noted(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", sound(3)), write(tmp_path / "b", sound(3, 2))
    third = write(tmp_path / "c", sound(3))
    report = check(first, second, third)
    assert not report.loses
    found = [(finding.shard, finding.kind, [name for name, _ in finding.names]) for finding in report.findings]
    assert found == [
        (str(third), "shard is a copy of another", []),
        (str(second), "key is in an earlier shard too", ["000002"]),
        (str(third), "key is in an earlier shard too", ["000000", "000001", "000002"]),
    ]


def test_two_members_of_one_key_and_extension_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(lay_out([("a", "jpg", JPEG), ("a", "txt", b"x"), ("a", "jpg", JPEG)]).raw)
    report = check(tmp_path / "0.tar")
    assert "two members 'jpg'" in report.findings[0].detail
    assert report.loses


def img2dataset_folder(folder: Path) -> list[Path]:
    tars = [write(folder, sound(3, 10 * n), f"{n:05d}.tar") for n in (0, 1, 3)]
    for tar, successes in ((tars[0], 3), (tars[1], 5)):
        (folder / f"{tar.stem}_stats.json").write_text(json.dumps({"count": 9, "successes": successes}))
    return tars


def test_the_statistics_of_img2dataset_are_compared(tmp_path: Path) -> None:
    tars = img2dataset_folder(tmp_path)
    report = check(*tars)
    found = {finding.kind: finding for finding in report.findings}
    assert found["img2dataset's count differs"] == Finding(
        str(tars[1]),
        "img2dataset's count differs",
        "lost",
        2,
        (),
        "00001_stats.json says 5 successes, 3 samples are there",
    )
    assert found["img2dataset did not finish it"].shard == str(tars[2])
    assert found["shard number is missing"].names == (("00002.tar", ""),)
    assert report.loses


@pytest.mark.parametrize(
    ("name", "content", "kind", "loses"),
    [
        ("nshards.txt", "3", "nshards.txt is wrong", True),
        ("nshards.txt", "1", "nshards.txt is wrong", False),
        ("nshards.txt", "two", "nshards.txt is wrong", False),
        ("sizes.json", '{"0.tar": 3, "1.tar": 4}', "sizes.json is wrong", True),
        ("sizes.json", '{"0.tar": 3, "1.tar": 3, "2.tar": 3}', "sizes.json is wrong", True),
        ("sizes.json", '{"0.tar": 3}', "sizes.json is wrong", False),
        ("__len__", "7", "__len__ is wrong", True),
    ],
)
def test_counts_that_others_wrote_are_compared(tmp_path: Path, name: str, content: str, kind: str, loses: bool) -> None:
    tars = [write(tmp_path, sound(3, 3 * n), f"{n}.tar") for n in range(2)]
    (tmp_path / name).write_text(content)
    report = check(*tars)
    assert [finding.kind for finding in report.findings] == [kind]
    assert report.loses is loses


def test_the_json_is_strict_and_the_names_are_complete(tmp_path: Path) -> None:
    samples: dict[str, Mapping[str, bytes]] = {f"{n:04d}": {"jpg": JPEG, "txt": b""} for n in range(150)}
    tar = write(tmp_path, samples | sound(1))
    report = check(tar, decode=False, names=tmp_path / "names.jsonl")
    facts = json.loads(json.dumps(report.facts(), allow_nan=False))
    assert (facts["loses"], facts["findings"][0]["count"], len(facts["findings"][0]["names"])) == (True, 150, 100)
    lines = [json.loads(line) for line in (tmp_path / "names.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == sorted(samples)
    assert report.rows() == [("lost", "caption is empty", 150, 1, f"{tar} 0000")]
