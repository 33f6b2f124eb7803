"""Which samples a run learns from: a dev split that training never sees, a few of each class, captions of the class."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.batch import DataPosition
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.captions import choose_caption
from mmclip_data.loading.census import refuse_unusable
from mmclip_data.loading.chosen import name_in_source
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_data.loading.labels import LabelsConfig
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter
from mmclip_eval.datasets import open_dataset
from mmclip_launch.run.recipe.chosen import choose_samples, dev_set, examples_set, training_set

NOTO = "embedded:emoji/unseen-concept-noto.tar"
BOTH = (NOTO, "embedded:emoji/unseen-concept-twemoji.tar")
CATEGORY = LabelsConfig(place="json:category", templates=("a {c}", "the {c}"))


def data(**options: object) -> DataConfig:
    source = IndexedTarsConfig(shards=options.pop("shards", NOTO))  # pyright: ignore[reportArgumentType]
    return DataConfig(source=source, workers=0, **options)  # pyright: ignore[reportArgumentType]


def names(config: DataConfig) -> set[str]:
    chosen = choose_samples(config)
    assert chosen is not None
    return set(chosen.classes)


def loader(config: DataConfig, batch: int = 16) -> TrainLoader:
    def tokenize(captions: list[str]) -> torch.Tensor:
        tokenize.seen += captions  # pyright: ignore[reportFunctionMemberAccess]
        return torch.zeros(len(captions), 1, dtype=torch.int64)

    tokenize.seen = []  # pyright: ignore[reportFunctionMemberAccess]
    found = TrainLoader(
        config,
        ImageSpec(size=(16, 16)),
        tokenize,
        Layout(batch),
        seed=3,
        say=lambda _: None,
        chosen=choose_samples(config),
    )
    return found


def test_training_and_dev_share_no_sample_and_are_all_together():
    config = data(held_out=HeldOutConfig(share=0.25), shards=BOTH)
    (settings,) = dev_set(config)
    samples = open_dataset(settings).dataset.samples
    dev = {name_in_source(samples.sample_id(index)) for index in range(len(samples))}
    whole = training_set(data(shards=BOTH)).samples
    assert names(config) | dev == {name_in_source(whole.sample_id(index)) for index in range(len(whole))}
    assert not names(config) & dev
    assert 0.15 < len(dev) / len(whole) < 0.35
    source = loader(config).source
    seen = [source.sample_id(shard, row) for shard, size in enumerate(source.shard_sizes) for row in range(size)]
    assert {name_in_source(name) for name in seen} == names(config)
    assert source.read(0, 0)["__id__"] == seen[0]


def test_another_seed_holds_out_others_and_groups_stay_together():
    first, second = (names(data(held_out=HeldOutConfig(share=0.3, seed=seed))) for seed in (0, 1))
    assert first != second
    by = HeldOutConfig(share=0.3, by="json:category")
    config = data(held_out=by, labels=CATEGORY)
    (settings,) = dev_set(config)
    held = open_dataset(settings).dataset.labelled
    learnt = examples_set(config).labelled
    assert held.class_names == learnt.class_names == training_set(config).labelled.class_names
    of_dev = {held.class_names[label] for label in held.labels.tolist()}
    assert of_dev
    assert not of_dev & {learnt.class_names[label] for label in learnt.labels.tolist()}


def test_a_group_that_samples_lack_or_a_share_that_takes_none_is_refused():
    with pytest.raises(UserError, match=r"nothing at held_out\.by='json:stamp'"):
        choose_samples(data(held_out=HeldOutConfig(share=0.3, by="json:stamp")))
    with pytest.raises(UserError, match=r"holds out 0 of 254 samples"):
        choose_samples(data(held_out=HeldOutConfig(share=1e-9)))


def test_shots_are_as_many_of_each_class_and_fewer_are_among_more():
    def drawn(shots: int, seed: int = 0) -> dict[str, int]:
        labels = LabelsConfig(place="json:category", templates=("a {c}",), shots=shots, shots_seed=seed)
        chosen = choose_samples(data(labels=labels))
        assert chosen is not None
        return dict(chosen.classes)

    one, four = drawn(1), drawn(4)
    classes = set(four.values())
    assert {label: list(four.values()).count(label) for label in classes} == dict.fromkeys(classes, 4)
    assert one.items() <= four.items()
    assert drawn(4, seed=1) != four
    with pytest.raises(UserError, match=r"data\.labels\.shots=999: class \d+ has \d+ examples"):
        drawn(999)


def test_captions_are_drawn_from_what_is_written_for_the_class():
    config = data(labels=CATEGORY)
    chosen = choose_samples(config)
    assert chosen is not None
    found = loader(config)
    batch = next(found.batches(DataPosition(0)))
    assert batch.classes is not None
    expected = [chosen.classes[name_in_source(name)] for name in batch.ids]
    assert batch.classes.tolist() == expected
    captions = found.tokenize.seen  # pyright: ignore[reportFunctionMemberAccess]
    assert captions[:16] == [choose_caption([chosen.texts[number]], 3, row) for row, number in enumerate(expected)]
    assert {caption.split()[0] for caption in captions} == {"a", "the"}


def test_classes_may_be_numbers_of_a_table_or_of_a_vector(tmp_path: Path):
    rows = io.BytesIO()
    picture = io.BytesIO()
    Image.new("RGB", (20, 20)).save(picture, "PNG")
    with ShardWriter(tmp_path) as writer:
        for number in range(6):
            np.save(rows, np.array([9, number % 2]))
            json_of = json.dumps({"label": number % 2}).encode()
            writer.add(f"s{number}", {"png": picture.getvalue(), "json": json_of, "npy": rows.getvalue()})
            rows = io.BytesIO()
    for place in ("json:label", "npy:1"):
        labels = LabelsConfig(place=place, class_names=("cat", "dog"), templates=("a {c}",))
        config = DataConfig(source=IndexedTarsConfig(shards=str(tmp_path)), workers=0, labels=labels)
        found = loader(config, 4)
        refuse_unusable(found.opened, 0.01)
        batch = next(found.batches(DataPosition(0)))
        captions = found.tokenize.seen  # pyright: ignore[reportFunctionMemberAccess]
        assert captions[:4] == [f"a {('cat', 'dog')[int(name[-1]) % 2]}" for name in batch.ids]


def test_the_names_of_a_set_come_from_its_folder(tmp_path: Path):
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "classnames.txt").write_text("zero\none\n")
    labels = LabelsConfig(place="cls")
    config = DataConfig(source=IndexedTarsConfig(shards=str(folder / "train")), labels=labels)
    with pytest.raises(UserError, match=r"nshards\.txt is missing"):  # it is read as CLIP_benchmark's layout
        training_set(config)


def test_options_of_labels_without_a_place_are_refused():
    with pytest.raises(ValueError, match=r"say where they are, data\.labels\.place"):
        LabelsConfig(shots=3)
