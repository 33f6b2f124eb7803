"""Training straight from `datasets`: what each kind of dataset becomes, and that nothing depends on where it is cached."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.batch import DataPosition
from mmclip.errors import BadSampleError, UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.captions import captions_of
from mmclip_data.loading.datasets_source import ROWS_IN_SHARD, DatasetsConfig, HFDataset
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import Source

ROWS = 7


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 10), (30 * number, 5, 250 - number)).save(out, "PNG")
    return out.getvalue()


def texts(number: int) -> list[str]:
    return [f"number {number}", f"the {number}th"]


def table(count: int = ROWS, first: str = "") -> datasets.Dataset:
    rows = {
        "image": [{"bytes": picture(number), "path": None} for number in range(count)],
        "caption": [texts(number) for number in range(count)],
        "label": [number % 2 for number in range(count)],
    }
    if first:
        rows["caption"][0] = [first]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["even", "odd"]),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same seven pictures as Parquet, as Arrow, as a list of paths, and in folders by class."""
    folder = tmp_path_factory.mktemp("datasets")
    table().to_parquet(str(folder / "pairs.parquet"))
    datasets.DatasetDict({"train": table(), "test": table(3)}).save_to_disk(str(folder / "saved"))
    (folder / "listed" / "pictures").mkdir(parents=True)
    with (folder / "listed" / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title"])
        for number in range(ROWS):
            (folder / "listed" / "pictures" / f"{number}.png").write_bytes(picture(number))
            writer.writerow([f"pictures/{number}.png", f"number {number}"])
    for number in range(ROWS):
        place = folder / "folders" / "train" / ("odd" if number % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(picture(number))
    return folder


def open_dataset(made: Path, path: str, **settings: Any) -> HFDataset:
    return DatasetsConfig(path=str(made / path), cache_folder=str(made / "cache"), **settings).build({"json"})


def samples(source: HFDataset) -> list[tuple[bytes, list[list[str]]]]:
    rows = [source.read(0, row) for row in range(int(source.shard_sizes.sum()))]
    return [(row["jpg"], captions_of(row, source.caption_fields)) for row in rows]


@pytest.mark.parametrize("path", ["pairs.parquet", "saved"])
def test_bytes_and_captions_of_arrow_are_those_that_went_in(made: Path, path: str):
    source = open_dataset(made, path)
    assert isinstance(source, Source)
    assert samples(source) == [(picture(number), [texts(number)]) for number in range(ROWS)]
    assert source.sample_id(0, 3) == f"{Path(path).stem}/train/000000003"


def test_a_csv_of_paths_reads_the_files_beside_it(made: Path):
    source = open_dataset(made, "listed/list.csv")
    assert samples(source) == [(picture(number), [[f"number {number}"]]) for number in range(ROWS)]


def test_folders_by_class_are_captioned_by_the_class(made: Path):
    source = open_dataset(made, "folders")
    assert source.caption_fields == ("json:label",)
    expected = sorted((picture(number), [["odd" if number % 2 else "even"]]) for number in range(ROWS))
    assert sorted(samples(source)) == expected


def test_a_label_and_a_caption_may_both_be_named(made: Path):
    source = open_dataset(made, "pairs.parquet", caption_columns=("caption", "label"))
    assert samples(source)[1][1] == [texts(1), ["odd"]]


def test_another_split_has_other_ids_and_rows(made: Path):
    source = open_dataset(made, "saved", split="test")
    assert int(source.shard_sizes.sum()) == 3
    assert source.sample_id(0, 0) == "saved/test/000000000"
    with pytest.raises(UserError, match="no split 'dev'; it has 'train', 'test'"):
        open_dataset(made, "saved", split="dev")


def test_fingerprint_is_of_contents_wherever_and_however_they_lie(made: Path, tmp_path: Path):
    shutil.copy(made / "pairs.parquet", tmp_path / "moved.parquet")
    parquet = open_dataset(made, "pairs.parquet").fingerprint
    moved = DatasetsConfig(path=str(tmp_path / "moved.parquet"), cache_folder=str(tmp_path / "cache")).build({"json"})
    assert moved.fingerprint == parquet == open_dataset(made, "saved").fingerprint
    table(first="another caption").to_parquet(str(tmp_path / "changed.parquet"))
    changed = DatasetsConfig(path=str(tmp_path / "changed.parquet"), cache_folder=str(tmp_path / "cache")).build(
        {"json"}
    )
    assert changed.fingerprint != parquet


def test_fingerprint_sees_a_picture_of_another_size(made: Path, tmp_path: Path):
    shutil.copytree(made / "listed", tmp_path / "listed")

    def now() -> str:
        return (
            DatasetsConfig(path=str(tmp_path / "listed" / "list.csv"), cache_folder=str(tmp_path))
            .build({"json"})
            .fingerprint
        )

    before = now()
    with (tmp_path / "listed" / "pictures" / "3.png").open("ab") as file:
        file.write(b"more")
    assert now() != before


def test_a_missing_file_is_a_bad_sample_that_names_row_and_path(made: Path, tmp_path: Path):
    shutil.copytree(made / "listed", tmp_path / "listed")
    source = DatasetsConfig(path=str(tmp_path / "listed" / "list.csv"), cache_folder=str(tmp_path)).build({"json"})
    (tmp_path / "listed" / "pictures" / "2.png").unlink()
    with pytest.raises(BadSampleError, match=r"row 2: picture .*2\.png: No such file"):
        source.read(0, 2)


def test_a_missing_package_names_the_extra(made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets: pip install \"mmclip\[hf\]\""):
        open_dataset(made, "pairs.parquet")


def test_wrong_path_and_wrong_columns_say_what_is_there(made: Path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_dataset(made, "nowhere.parquet")
    with pytest.raises(UserError, match=r"'picture'.*no such column; it has 'image', 'caption', 'label'"):
        open_dataset(made, "pairs.parquet", image_column="picture")
    (made / "x.txt").write_text("x")
    with pytest.raises(UserError, match=r"ends in \.txt, expected one of \.parquet"):
        open_dataset(made, "x.txt")


def test_a_script_beside_the_data_is_not_run(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot open it"):
        DatasetsConfig(path=str(tmp_path / "set"), cache_folder=str(tmp_path / "cache")).build({"json"})
    assert not (tmp_path / "ran").exists()


def test_batches_from_a_dataset_mix_its_shards_and_name_its_rows(tmp_path: Path):
    """Sorted by class, as a folder is: a batch must not come from one end of it."""
    count = 3 * ROWS_IN_SHARD
    rows = {"image": [picture(number % 8) for number in range(count)], "text": [str(number) for number in range(count)]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "long.parquet"))
    source = DatasetsConfig(path=str(tmp_path / "long.parquet"), cache_folder=str(tmp_path), name="long")
    loader = TrainLoader(
        DataConfig(source=source, workers=0), ImageSpec(size=(8, 8)), Tokenizer({"context_length": 8}), Layout(64), 0
    )
    batch = next(loader.batches(DataPosition(0)))
    numbers = np.array([int(name.removeprefix("long/train/")) for name in batch.ids])
    assert len(set(numbers // ROWS_IN_SHARD)) == 3
    expected = torch.stack([picture_pixels(number % 8) for number in numbers.tolist()])
    assert (batch.images.float().mean((2, 3)) - expected).abs().max() < 1


def picture_pixels(number: int) -> torch.Tensor:
    with Image.open(io.BytesIO(picture(number))) as image:
        return torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)


def test_captions_of_a_sample_are_json_that_other_tools_read(made: Path):
    sample = open_dataset(made, "pairs.parquet").read(0, 0)
    assert json.loads(sample["json"]) == {"caption": texts(0)}
