"""Tux Paint's stamps as pairs: which are taken, what is said of them, and on which side of the split each stands."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmclip.errors import UserError
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.pipelines.stamps import INSIDE, STAMPS, TEST, Stamp, StampsConfig, make_stamps, read_stamps, split


def put(root: Path, name: str, text: str, picture: bool = True) -> None:
    path = root / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if picture:
        Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(path.with_suffix(".png"))
        Image.new("RGBA", (3, 2)).save(path.with_name(f"{path.stem}_mirror.png"))


def test_pairs_have_their_english_sentence_all_languages_and_a_category(tmp_path: Path):
    put(tmp_path, "animals/bovines/zebu", "A zebu. \nde.utf8=Ein Zebu.\nfr.utf8=\n")
    put(tmp_path, "symbols/alphabets/a", "The letter A.")
    put(tmp_path, "food/drawn", "An apple.", picture=False)
    put(tmp_path, "food/nameless", "\nde.utf8=Apfel")
    stamps, skipped = read_stamps(tmp_path)
    assert [(str(s.path), s.sentence, s.languages, s.category) for s in stamps] == [
        ("animals/bovines/zebu", "A zebu.", {"de": "Ein Zebu."}, "animals")
    ]
    assert skipped == {
        "letters and symbols": ("symbols/alphabets/a",),
        "no PNG": ("food/drawn",),
        "no English sentence": ("food/nameless",),
    }


def test_a_folder_without_stamps_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no stamps in it"):
        read_stamps(tmp_path)


def stamp(number: int, sentence: str) -> Stamp:
    return Stamp(Path(f"food/{number:03d}"), b"", sentence, {})


def test_each_stamp_is_in_one_part_and_no_sentence_of_the_test_is_another_ones():
    stamps = [stamp(n, f"Food {n}.") for n in range(300)] + [stamp(n, "A flower.") for n in range(300, 310)]
    parts = split(stamps)
    assert {name: len(part) for name, part in parts.items()} == {"train": 310 - TEST, "test": TEST}
    assert sorted(s for part in parts.values() for s in part) == sorted(stamps)
    judged = [s.sentence for s in parts["test"]]
    assert len(set(judged)) == len(judged)
    assert "A flower." not in judged
    more = split([*stamps, stamp(999, "One more.")])
    assert len({s.path for s in parts["test"]} - {s.path for s in more["test"]}) <= 1
    assert split(stamps[::-1])["test"] == parts["test"][::-1]


@pytest.mark.slow
def test_the_package_gives_538_stamps(tmp_path: Path):
    cache = Path(__file__).parents[3] / ".cache" / "debian"
    if not (cache / STAMPS.file).is_file() and not (cache / f"{STAMPS.name}-{STAMPS.version}" / INSIDE).is_dir():
        pytest.skip(f"no {STAMPS.file} in {cache}; `mmclip shards make stamps` fetches it")
    report = make_stamps(StampsConfig(output=tmp_path / "stamps", cache=cache))
    assert report.counts == {"train": 430, "test": 108, "categories": 15}
    assert {reason: len(names) for reason, names in report.skipped.items()} == {
        "letters and symbols": 249,
        "no PNG": 165,
    }
    source = IndexedTarsConfig(shards=str(tmp_path / "stamps/test.tar")).build({"json"})
    facts = [json.loads(source.read(0, row)["json"]) for row in range(108)]
    assert all(len(fact["languages"]) > 20 for fact in facts)
    make_stamps(StampsConfig(output=tmp_path / "again", cache=cache))
    for name in ("train", "test"):
        assert (tmp_path / f"stamps/{name}.tar").read_bytes() == (tmp_path / f"again/{name}.tar").read_bytes()
