"""Pictures alone: no sample needs a caption, none is read, and everything else about the data stays as it is."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.training.identity import identity_labels, picture_ids
from mmclip_data.loading.build import Loader, build_loader
from mmclip_data.loading.census import refuse_unusable
from mmclip_data.loading.datasets_source import DatasetsConfig, HFDataset
from mmclip_data.loading.labels import LabelsConfig
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.mixture import MixtureConfig, PartConfig
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig, SyntheticConfig
from mmclip_data.loading.stream_loader import refuse_unusable_stream
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.pipelines.check.shards import CheckConfig, check_shards
from mmclip_data.pipelines.folder import FolderConfig, make_folder
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard

SPEC = ImageSpec(size=(12, 12))
SAMPLES = make_shard(16).samples
WHOLE = Layout(4)


def write(folder: Path, *extensions: str) -> Path:
    with ShardWriter(folder, "{}.tar", samples_per_shard=8) as writer:
        for key, members in SAMPLES.items():
            writer.add(key, {name: payload for name, payload in members.items() if name in extensions})
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return write(tmp_path / "bare", "jpg")


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    return write(tmp_path / "captioned", "jpg", "txt", "json")


def must_not_tokenize(captions: Any) -> Tensor:
    raise AssertionError(f"tokenized {captions}")


def loader(source: Any, layout: Layout = WHOLE, **settings: Any) -> Loader:
    config = DataConfig(source=source, image_only=True, **{"workers": 0, **settings})
    return build_loader(config, SPEC, must_not_tokenize, layout, 3)


def batches(source: Any, layout: Layout = WHOLE, **settings: Any) -> list[ImageTextBatch]:
    return list(islice(loader(source, layout, **settings).batches(DataPosition(0)), 3))


@pytest.mark.parametrize("workers", [{}, {"workers": 1}, {"workers": 2, "loader": "threads"}], ids=str)
def test_shards_without_captions_give_whole_batches_without_tokens(bare: Path, workers: dict[str, Any]) -> None:
    for batch in batches(IndexedTarsConfig(shards=str(bare)), **workers):
        assert batch.tokens.shape == (4, 0)
        assert batch.tokens.dtype == torch.int64
        assert batch.images.shape == (4, 3, 12, 12)
        assert not batch.replaced
        assert [tuple(part.tokens.shape) for part in batch.split(2)] == [(2, 0)] * 2
        assert batch.to(torch.device("cpu")).tokens.shape == (4, 0)


def test_pictures_are_those_of_a_run_with_captions(bare: Path, captioned: Path) -> None:
    source = IndexedTarsConfig(shards=str(captioned))
    config = DataConfig(source=source, workers=0)
    tokenize = lambda captions: torch.zeros(len(captions), 1, dtype=torch.int64)  # noqa: E731
    paired = build_loader(config, SPEC, tokenize, Layout(4), 3).batches(DataPosition(0))
    for batch, ours, other in zip(paired, batches(source), batches(IndexedTarsConfig(shards=str(bare))), strict=False):
        assert batch.ids == ours.ids
        assert torch.equal(batch.images, ours.images)
        assert torch.equal(batch.keys, ours.keys)
        assert torch.equal(batch.images, other.images)


def test_no_member_but_the_picture_is_read(captioned: Path) -> None:
    opened = open_source(IndexedTarsConfig(shards=str(captioned)), ())
    assert isinstance(opened.source, IndexedTars)
    assert {name for name in opened.source.read(0, 0) if not name.startswith("__")} == {"jpg"}
    assert opened.notes == ()
    assert refuse_unusable(opened, 0.01) == []


def test_captions_that_nobody_could_read_harm_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for key, members in SAMPLES.items():
            writer.add(key, {"jpg": members["jpg"], "txt": b"\xff\xfe\xff"})
    assert not any(batch.replaced for batch in batches(IndexedTarsConfig(shards=str(tmp_path))))


def test_a_missing_picture_is_still_a_bad_sample(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for number, (key, members) in enumerate(SAMPLES.items()):
            writer.add(key, {"jpg": members["jpg"]} if number else {"txt": members["txt"]})
    source = IndexedTarsConfig(shards=str(tmp_path))
    replaced = [entry for batch in batches(source, Layout(8)) for entry in batch.replaced]
    assert replaced
    assert all("no picture" in entry.reason for entry in replaced)


def test_too_few_pictures_are_refused_in_words_without_captions(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=40) as writer:
        for number in range(40):
            writer.add(f"{number:06d}", SAMPLES["000000"] if number < 20 else {"txt": b"a text"})
    with pytest.raises(UserError, match="only 20 samples are left") as error:
        refuse_unusable(open_source(IndexedTarsConfig(shards=str(tmp_path)), ()), 0.01)
    assert "caption" not in str(error.value)


def test_batches_are_equal_for_any_number_of_ranks(bare: Path) -> None:
    source = IndexedTarsConfig(shards=str(bare))
    ranks = [batches(source, Layout(4, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(batches(source), *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_mixtures_and_made_up_pictures_need_no_captions(bare: Path, captioned: Path) -> None:
    parts = [
        IndexedTarsConfig(shards=str(bare), name="bare"),
        IndexedTarsConfig(shards=str(captioned), name="captioned"),
    ]
    mixture = MixtureConfig(sources=tuple(PartConfig(source=part) for part in parts))
    ids = [name for batch in batches(mixture) for name in batch.ids]
    assert {name.partition("/")[0] for name in ids} == {"bare", "captioned"}
    assert all(batch.tokens.shape == (4, 0) for batch in batches(SyntheticConfig(samples=8, image_size=16)))


def test_streams_need_no_captions(bare: Path) -> None:
    source = StreamingConfig(shards=str(bare), samples=16)
    refuse_unusable_stream(source, (), 1)
    with pytest.raises(UserError, match="no caption"):
        refuse_unusable_stream(source, None, 1)
    assert all(batch.tokens.shape == (4, 0) for batch in batches(source))
    assert "no captions" in loader(source).describe(16)[0]


def test_a_dataset_needs_no_column_of_captions(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": members["jpg"], "path": None} for members in SAMPLES.values()]
    features = datasets.Features({"picture": datasets.Image(), "number": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"picture": pictures, "number": list(range(16))}, features=features)
    table.save_to_disk(str(tmp_path / "made"))
    source = DatasetsConfig(path=str(tmp_path / "made"))
    with pytest.raises(UserError, match="captions"):
        source.build({"txt"})
    opened = open_source(source, ())
    assert isinstance(opened.source, HFDataset)
    assert "json" not in opened.source.read(0, 0)
    assert opened.source.fingerprint == open_source(source, ()).source.fingerprint
    for batch in batches(source):
        assert batch.images.shape == (4, 3, 12, 12)
        assert not batch.replaced


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"captions": ("txt",)}, r"data\.captions"),
        ({"labels": LabelsConfig(place="cls")}, r"data\.labels\.place"),
        ({"source": DatasetsConfig(path="x", caption_columns=("a",))}, "caption_columns"),
        (
            {"source": MixtureConfig(sources=(PartConfig(source=SyntheticConfig(), captions=("txt",)),))},
            r"data\.source\.sources\.captions",
        ),
    ],
)
def test_what_captions_are_is_refused_where_there_are_none(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DataConfig(**{"source": SyntheticConfig(), "image_only": True, **settings})


def test_samples_without_captions_are_told_apart_by_their_pictures() -> None:
    ids = ("a/0/x", "a/0/y", "a/0/x")
    labels = identity_labels(torch.empty((3, 0), dtype=torch.int64), ids)
    assert torch.equal(labels.image, picture_ids(ids, torch.device("cpu"))[:, None])
    equal = (labels.image[:, None] == labels.text[None]).any(dim=2)
    assert equal.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_the_check_of_shards_looks_for_no_captions_when_told(bare: Path) -> None:
    settings = CheckConfig(shards=(str(bare),), workers=1)
    assert check_shards(settings).loses
    report = check_shards(replace(settings, image_only=True, decode=True))
    assert not report.loses
    assert report.totals["samples"] == 16


def test_a_folder_of_pictures_becomes_shards_without_captions(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    for number, members in enumerate(SAMPLES.values()):
        path = source / ("deep" if number % 2 else "") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(members["jpg"])
    (source / "notes.txt").write_text("none of theirs")
    report = make_folder(FolderConfig(source=source, output=tmp_path / "out", kind="pictures", workers=1))
    assert report.skipped == {"no image": ("notes.txt",)}
    assert not (tmp_path / "out" / "dataset_type.txt").exists()
    found = IndexedTarsConfig(shards=str(tmp_path / "out" / "train"))
    opened = open_source(found, ())
    members = {name for row in range(16) for name in opened.source.read(0, row) if not name.startswith("__")}
    assert members == {"jpg"}
    assert all(batch.images.shape == (4, 3, 12, 12) for batch in batches(found))
