"""Data sets of Hugging Face's library and downloads of img2dataset to shards, and back to the readers of others."""

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.pipelines.hf_datasets import DatasetsConfig, make_datasets
from mmclip_data.pipelines.img2dataset import Img2datasetConfig, make_img2dataset
from mmclip_data.pipelines.job import Dropped
from mmclip_data.shards import ShardWriter, index_path
from mmclip_data.testing.shard_faults import picture

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield tmp_path / "cache"
    datasets.enable_progress_bars()


def pictures(count: int, kind: str = "JPEG") -> list[bytes]:
    source = random.Random(5)
    return [picture(source, 16, kind) for _ in range(count)]


def read(folder: Path) -> list[dict[str, Any]]:
    tars = sorted(folder.glob("*.tar"), key=lambda path: int(path.stem))
    return list(WebDataset([str(tar) for tar in tars], shardshuffle=False))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def from_datasets(tmp_path: Path, source: Path, **changes: Any) -> Any:
    settings = {"source": str(source), "output": tmp_path / "out", "workers": 1, "cache": tmp_path / "cache"}
    return make_datasets(DatasetsConfig(**(settings | changes)))


def image_folder(folder: Path) -> list[bytes]:
    data = pictures(12)
    for number, payload in enumerate(data):
        split, name = ("train", "test")[number // 8], ("cat", "dog")[number % 2]
        path = folder / split / name / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    return data


def test_an_image_folder_gives_its_classes_splits_and_bytes(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "in")
    report = from_datasets(tmp_path, tmp_path / "in")
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        samples = read(tmp_path / "out" / split)
        expected = sorted((number % 2, data[number]) for number in numbers)
        assert sorted((int(sample["cls"]), sample["jpg"]) for sample in samples) == expected
        assert {(sample["cls"], sample["txt"]) for sample in samples} == {(b"0", b"cat"), (b"1", b"dog")}
    assert (tmp_path / "out/classnames.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "out/zeroshot_classification_templates.txt").read_text() == "a photo of a {c}\n"
    assert report.counts == {"train rows": 8, "train samples": 8, "test rows": 4, "test samples": 4}


def test_a_folder_with_metadata_gives_its_captions(tmp_path: Path) -> None:
    data = pictures(4)
    (tmp_path / "in").mkdir()
    rows = []
    for number, payload in enumerate(data):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(payload)
        rows.append({"file_name": f"{number}.jpg", "text": f"a boat {number}", "score": number / 2})
    (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from_datasets(tmp_path, tmp_path / "in", split="test")
    samples = read(tmp_path / "out" / "test")
    assert [(s["jpg"], s["txt"], json.loads(s["json"])["score"]) for s in samples] == [
        (payload, f"a boat {number}".encode(), number / 2) for number, payload in enumerate(data)
    ]
    assert (tmp_path / "out/dataset_type.txt").read_text() == "retrieval\n"


def write_parquet(path: Path, data: list[bytes]) -> None:
    rows = [
        {"image": {"bytes": d, "path": None}, "TEXT": [f"one {n}", "two"], "url": f"u{n}"} for n, d in enumerate(data)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {
        "image": datasets.Image(),
        "TEXT": datasets.List(datasets.Value("string")),
        "url": datasets.Value("string"),
    }
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(str(path))


def test_parquet_with_a_picture_struct_keeps_the_bytes_and_drops_what_is_broken(tmp_path: Path) -> None:
    data = pictures(5)
    data[2] = data[2][:100]
    data[3] = b"<html>"
    write_parquet(tmp_path / "in" / "train-00000-of-00001.parquet", data)
    report = from_datasets(tmp_path, tmp_path / "in")
    samples = read(tmp_path / "out" / "train")
    assert [(s["jpg"], s["txt"]) for s in samples] == [(data[n], f"one {n}\ntwo".encode()) for n in (0, 1, 4)]
    assert json.loads(samples[2]["json"]) == {"url": "u4", "captions": ["one 4", "two"]}
    assert report.dropped.counts == {"picture cannot be decoded": 1, "neither JPEG, PNG nor WebP inside": 1}
    single = from_datasets(tmp_path, tmp_path / "in" / "train-00000-of-00001.parquet", output=tmp_path / "single")
    assert single.counts == report.counts
    assert [(s["jpg"], s["txt"]) for s in read(tmp_path / "single" / "train")] == [
        (s["jpg"], s["txt"]) for s in samples
    ]


def test_a_saved_data_set_is_opened(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "train.parquet", pictures(3))
    datasets.load_dataset("parquet", data_files=str(tmp_path / "in/train.parquet"), split="train").save_to_disk(
        tmp_path / "saved"
    )
    from_datasets(tmp_path, tmp_path / "saved", image_column="image", caption_columns=("TEXT",))
    assert [s["jpg"] for s in read(tmp_path / "out" / "train")] == pictures(3)


def test_a_second_run_and_two_workers_change_no_byte(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "train.parquet", pictures(100))
    from_datasets(tmp_path, tmp_path / "in", samples_per_shard=30)
    from_datasets(tmp_path, tmp_path / "in", samples_per_shard=30, workers=2, output=tmp_path / "again")
    from_datasets(tmp_path, tmp_path / "in", samples_per_shard=30, output=tmp_path / "third", cache=tmp_path / "other")
    assert everything(tmp_path / "out") == everything(tmp_path / "again") == everything(tmp_path / "third")


@pytest.mark.parametrize("made_by", ["table", "datasets"])
def test_stock_webdataset_and_the_webdataset_builder_read_what_is_made(tmp_path: Path, made_by: str) -> None:
    data = pictures(7)
    if made_by == "datasets":
        write_parquet(tmp_path / "in" / "train.parquet", data)
        from_datasets(tmp_path, tmp_path / "in", samples_per_shard=4)
    else:
        from mmclip_data.pipelines.table import TableConfig, make_table

        for number, payload in enumerate(data):
            (tmp_path / f"{number}.jpg").write_bytes(payload)
        rows = [json.dumps({"filepath": f"{n}.jpg", "caption": [f"one {n}", "two"]}) for n in range(7)]
        (tmp_path / "t.jsonl").write_text("\n".join(rows))
        make_table(TableConfig(source=tmp_path / "t.jsonl", output=tmp_path / "out", samples_per_shard=4, workers=1))
    assert [(s["jpg"], s["txt"]) for s in read(tmp_path / "out/train")] == [
        (payload, f"one {number}\ntwo".encode()) for number, payload in enumerate(data)
    ]
    tars = [str(path) for path in sorted((tmp_path / "out/train").glob("*.tar"))]
    rows = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows["__key__"][:] == [f"s{n:07d}" for n in range(7)]
    assert rows["txt"][:] == [f"one {n}\ntwo" for n in range(7)]
    assert rows[3]["json"]["captions"] == ["one 3", "two"]
    assert rows[3]["jpg"].tobytes() == Image.open(io.BytesIO(data[3])).tobytes()
    # And it comes back through `make datasets`.
    from_datasets(tmp_path, tmp_path / "out" / "train", output=tmp_path / "back", caption_columns=("txt",))
    assert [(s["jpg"], s["txt"]) for s in read(tmp_path / "back/train")] == [
        (payload, f"one {number} two".encode()) for number, payload in enumerate(data)
    ]


def test_what_cannot_be_opened_or_told_is_one_message(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "train.parquet", pictures(3))
    (tmp_path / "x.bin").write_bytes(b"x")
    for source, changes, message in (
        (tmp_path / "in", {"image_column": "picture"}, "has no such column; it has 'image', 'TEXT', 'url'"),
        (tmp_path / "in", {"caption_columns": ("title",)}, "has no such column"),
        (tmp_path / "in", {"read_split": "validation"}, "there are 'train'"),
        (tmp_path / "x.bin", {}, "expected a file that ends in"),
        (tmp_path / "nowhere", {}, "`datasets` cannot open it"),
        (tmp_path / "in", {"templates": ("photo",)}, "no place for the class name"),
    ):
        with pytest.raises(UserError, match=message):
            from_datasets(tmp_path, source, **changes)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'mmclip\[hf\]'"):
        from_datasets(tmp_path, tmp_path)


# img2dataset, as its writer.py writes it


def download(folder: Path, kind: str) -> dict[str, tuple[bytes, str]]:
    """Three parts of four rows: two fail, one has no caption, one is no picture; the third part was not finished."""
    data = iter(pictures(12))
    good: dict[str, tuple[bytes, str]] = {}
    folder.mkdir()
    for part in range(3):
        rows, samples = [], {}
        for row in range(4):
            key = f"{part:05d}{row:04d}"
            status = "failed_to_download" if (part, row) in ((0, 1), (1, 0)) else "success"
            payload = next(data) if (part, row) != (1, 3) else b"<html>"
            caption = None if (part, row) == (0, 2) else f"caption {key}"
            facts = {"url": f"https://example.org/{key}", "caption": caption, "key": key, "status": status, "width": 16}
            if status == "success":
                samples[key] = (payload, caption or "", facts)
            rows.append(
                facts | {"jpg": payload if status == "success" else None, "txt": caption or ""}
                if kind == "parquet"
                else facts
            )
            if status == "success" and caption and part < 2 and (part, row) != (1, 3):
                good[key] = payload, caption
        write_part(folder, kind, f"{part:05d}", samples)
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{part:05d}.parquet", row_group_size=3)
        if part < 2:
            stats = {"count": 4, "successes": 3, "failed_to_download": 1, "failed_to_resize": 0}
            (folder / f"{part:05d}_stats.json").write_text(json.dumps(stats))
    return good


def write_part(folder: Path, kind: str, name: str, samples: dict[str, tuple[bytes, str, dict[str, Any]]]) -> None:
    members = {
        key: {"jpg": payload, "txt": caption.encode(), "json": json.dumps(facts, indent=4).encode()}
        for key, (payload, caption, facts) in samples.items()
    }
    if kind == "files":
        (folder / name).mkdir()
        for key, files in members.items():
            for extension, payload in files.items():
                (folder / name / f"{key}.{extension}").write_bytes(payload)
    if kind == "webdataset":
        with ShardWriter(folder, f"{name}.tar", samples_per_shard=None) as writer:
            for key in sorted(members, reverse=True):  # in the order in which downloads end
                writer.add(key, members[key])
        index_path(writer.paths[0]).unlink()


@pytest.mark.parametrize("kind", ["webdataset", "files", "parquet"])
def test_each_format_of_img2dataset_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    good = download(tmp_path / "in", kind)
    report = make_img2dataset(Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "out", workers=1))
    samples = read(tmp_path / "out" / "train")
    assert [(s["__key__"], s["jpg"], s["txt"].decode()) for s in samples] == [(key, *good[key]) for key in sorted(good)]
    assert [json.loads(s["json"])["url"] for s in samples] == [f"https://example.org/{key}" for key in sorted(good)]
    assert report.dropped.counts == {
        "no caption": 1,
        "neither JPEG, PNG nor WebP inside": 1,
        "failed to download, before mmclip": 2,
        "img2dataset did not finish it": 1,
    }
    assert report.counts == {"parts": 2, "samples found": 6, "train samples": 4}
    assert report.notes == [f"format {kind}"]
    lines = (tmp_path / "out/train/dropped.jsonl").read_text().splitlines()
    assert [Dropped(**json.loads(line)).source for line in lines] == ["00000/000000002", "00001/000010003"]


def test_unfinished_parts_can_be_kept_and_missing_samples_are_told(tmp_path: Path) -> None:
    download(tmp_path / "in", "webdataset")
    stats = tmp_path / "in" / "00000_stats.json"
    stats.write_text(json.dumps({"successes": 9}))
    raw = (tmp_path / "in" / "00002.tar").read_bytes()
    (tmp_path / "in" / "00002.tar").write_bytes(raw[: len(raw) // 2])
    report = make_img2dataset(Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "out", workers=1))
    assert report.notes == ["format webdataset", "the statistics say 12 downloads succeeded, 6 samples are there"]
    config = Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "all", workers=1, unfinished="keep")
    kept = make_img2dataset(config)
    assert 0 < kept.counts["samples found"] - 6 < 4
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="expected img2dataset's output folder"):
        make_img2dataset(Img2datasetConfig(source=tmp_path / "nothing", output=tmp_path / "x"))
    for path in (tmp_path / "in").glob("*_stats.json"):
        path.unlink()
    with pytest.raises(UserError, match="3 parts in format webdataset, none with its NAME_stats.json"):
        make_img2dataset(Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "x"))


def test_what_is_counted_by_parts_names_the_parts(tmp_path: Path) -> None:
    download(tmp_path / "in", "files")
    report = make_img2dataset(Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "out", workers=1))
    (line,) = [line for line in report.lines() if "failed to download" in line]
    assert line == "dropped 2 (failed to download, before mmclip): 1 in 00000, 1 in 00001"
    (tmp_path / "in/00000_stats.json").write_text("[]")
    with pytest.raises(UserError, match=r"00000_stats\.json: not the statistics of img2dataset"):
        make_img2dataset(Img2datasetConfig(source=tmp_path / "in", output=tmp_path / "other", workers=1))


def test_relative_paths_of_a_csv_begin_beside_it_and_urls_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (data,) = pictures(1)
    (tmp_path / "in/deep/0.jpg").write_bytes(data)
    (tmp_path / "in/t.csv").write_text("image,caption\ndeep/0.jpg,a boat\nhttps://example.org/1.jpg,b\ndeep/2.jpg,c\n")
    monkeypatch.chdir(tmp_path)
    report = from_datasets(tmp_path, tmp_path / "in/t.csv")
    assert [(s["jpg"], s["txt"]) for s in read(tmp_path / "out/train")] == [(data, b"a boat")]
    assert report.dropped.counts == {"picture is a URL": 1, "picture's file is missing": 1}
