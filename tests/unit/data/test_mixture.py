"""A mixture: exact shares, a line of its own for each source, breakpoints, and ids that tell the sources apart."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.census import refuse_small
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.mixture import MixtureConfig, PartConfig, WeightsConfig
from mmclip_data.loading.mixture_order import MixtureOrder, make_segments, slot_counts, slot_table
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.plan import Plan, PlanConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

SIZES = {"big": (20, 25, 15), "small": (6, 4)}
BAD = ("big", 7)


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 6), (number % 256, 3, 7)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    for name, sizes in SIZES.items():
        number = 0
        for shard, size in enumerate(sizes):
            with ShardWriter(folder / name, f"{shard}-{{:d}}.tar", samples_per_shard=1000) as writer:
                for row in range(size):
                    data = b"no picture" if (name, number) == BAD else picture(number)
                    caption = {"txt" if name == "big" else "caption": f"{name} {number}".encode()}
                    writer.add(f"{row:03d}", {"png": data, **caption})
                    number += 1
    return folder


def mixture(shards: Path, weights: tuple[float | None, float | None] = (3.0, 1.0), **settings: Any) -> MixtureConfig:
    parts = tuple(
        PartConfig(source=IndexedTarsConfig(shards=str(shards / name), name=name), weight=weight)
        for name, weight in zip(SIZES, weights, strict=True)
    )
    return MixtureConfig(sources=parts, **{"slots": 40, **settings})


def make_loader(source: MixtureConfig, layout: Layout, workers: int = 0, **settings: Any) -> TrainLoader:
    config = DataConfig(source=source, workers=workers, **settings)
    return TrainLoader(config, ImageSpec(size=(4, 4)), Tokenizer({"context_length": 8}), layout, 0)


def take(loader: TrainLoader, start: int, count: int) -> list[ImageTextBatch]:
    batches = loader.batches(DataPosition(start))
    return [next(batches) for _ in range(count)]


def origin(identity: str) -> str:
    return identity.partition("/")[0]


def test_slots_are_shared_by_largest_remainder_and_never_lost():
    assert slot_counts([1.0, 1.0, 1.0], 10) == (4, 3, 3)
    assert slot_counts([0.7, 0.2, 0.1], 1000) == (700, 200, 100)
    assert slot_counts([1.0, 0.0], 7) == (7, 0)
    with pytest.raises(UserError, match="at least 100 slots"):
        slot_counts([99.0, 1.0], 40)
    with pytest.raises(UserError, match="expected numbers of 0 or more"):
        slot_counts([1.0, -1.0], 10)


@pytest.mark.parametrize("counts", [(30, 10), (1, 999), (7, 11, 13), (500, 300, 150, 50), (5, 0, 5)])
def test_the_table_is_spread_as_evenly_as_it_goes(counts: tuple[int, ...]):
    table = slot_table(counts)
    length = sum(counts)
    assert np.bincount(table, minlength=len(counts)).tolist() == list(counts)
    for source, count in enumerate(counts):
        given = np.cumsum(np.concatenate([[0], table == source]))
        expected = np.arange(length + 1) * count / length
        assert np.abs(given - expected).max() < len(counts)


def orders() -> MixtureOrder:
    plans = [Plan(PlanConfig(window=5), seed, np.array(sizes)) for seed, sizes in enumerate(SIZES.values())]
    return MixtureOrder(0, plans, [0, 3], make_segments([(0, (30, 10)), (1000, (10, 30)), (1500, (40, 0))]))


def test_each_source_goes_on_where_it_stood_at_a_breakpoint():
    """The oracle: count along the line, one position after another."""
    order, given = orders(), [0, 0]
    for position in range(2100):
        source, own = order.own(position)
        assert own == given[source]
        assert order.given_before(position) == tuple(given)
        given[source] += 1
        shard, row = order.locate(position)
        expected = order.parts[source].locate(own)
        assert (shard - order.first_shards[source], row) == expected
    assert order.locate_all(range(900, 1600)) == [order.locate(position) for position in range(900, 1600)]
    assert order.given_before(1000) == (750, 250)
    assert order.given_before(1500) == (875, 625)
    assert order.given_before(2100) == (1475, 625)


def test_each_source_has_exact_epochs_of_its_own():
    order = orders()
    rows: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for position in range(1000):
        rows[order.own(position)[0]].append(order.locate(position))
    for source, size in ((0, 60), (1, 10)):
        for epoch in range(len(rows[source]) // size):
            assert len(set(rows[source][epoch * size : (epoch + 1) * size])) == size


def test_places_of_a_batch_over_a_breakpoint_are_those_of_each_source():
    order = orders()
    positions = np.arange(980, 1020)
    expected = [
        float(order.parts[source].places(np.array([own]))[0]) for source, own in map(order.own, positions.tolist())
    ]
    assert order.places(positions).tolist() == expected


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (1, 2)])
@pytest.mark.parametrize("start", [0, 96, 120_000_000])
def test_batches_of_a_mixture_are_the_same_for_any_layout(shards: Path, ranks: int, workers: int, start: int):
    alone = take(make_loader(mixture(shards), Layout(8)), start, 2)
    parts = [take(make_loader(mixture(shards), Layout(8, rank, ranks), workers), start, 2) for rank in range(ranks)]
    for step in range(2):
        assert sum((part[step].ids for part in parts), ()) == alone[step].ids
        joined = np.concatenate([part[step].images.numpy() for part in parts])
        assert np.array_equal(joined, alone[step].images.numpy())


def test_shares_ids_and_captions_are_those_of_the_sources(shards: Path):
    batches = take(make_loader(mixture(shards), Layout(8)), 0, 10)
    assert Counter(origin(name) for batch in batches for name in batch.ids) == {"big": 60, "small": 20}
    assert all(Counter(map(origin, batch.ids))["small"] == 2 for batch in batches)
    replaced = [entry for batch in batches for entry in batch.replaced]
    assert {entry.sample_id for entry in replaced} == {"big/0-0.tar/007"}
    assert {origin(entry.replaced_by) for entry in replaced} == {"big"}


def test_without_weights_each_sample_comes_once_an_epoch(shards: Path):
    loader = make_loader(mixture(shards, (None, None), slots=70), Layout(35))
    assert loader.samples_per_epoch == 70
    seen = Counter(name for batch in take(loader, 0, 2) for name in batch.ids)
    assert sum(seen.values()) == 70
    assert len(seen) >= 69  # the bad one is replaced


def test_what_is_read_is_said(shards: Path):
    lines = make_loader(mixture(shards), Layout(8)).describe(800)
    assert "captions of big from txt (data.captions says otherwise)" in lines
    assert "captions of small from caption (data.captions says otherwise)" in lines
    assert any("an epoch is 70 samples, as many as its 2 sources hold together" in line for line in lines)
    assert "  big: 75.0% = 600 samples = 10.00 epochs of 60" in lines
    assert "  small: 25.0% = 200 samples = 20.00 epochs of 10" in lines


def test_the_fingerprint_holds_what_is_behind_and_leaves_open_what_is_ahead(shards: Path):
    def at(consumed: int, *changes: WeightsConfig) -> str:
        return make_loader(mixture(shards, changes=changes), Layout(8)).fingerprint_at(consumed)

    change = WeightsConfig(samples_seen=800, weights=(1.0, 1.0))
    assert at(800) == at(800, change)
    assert at(808) != at(808, change)
    assert at(808, change) != at(808, WeightsConfig(samples_seen=800, weights=(1.0, 2.0)))


def test_a_source_keeps_its_order_when_another_joins(shards: Path):
    both = make_loader(mixture(shards), Layout(8)).plan
    alone = make_loader(MixtureConfig(sources=mixture(shards).sources[1:]), Layout(8)).plan
    assert isinstance(both, MixtureOrder)
    assert isinstance(alone, MixtureOrder)
    own = [both.locate(position)[1] for position in range(200) if both.own(position)[0] == 1]
    assert own == [alone.locate(position)[1] for position in range(50)]


def test_what_cannot_be_is_refused_by_name(shards: Path):
    (big, small) = mixture(shards).sources
    with pytest.raises(UserError, match="1 of 2 have a weight, number 2 has none"):
        make_loader(mixture(shards, (1.0, None)), Layout(8))
    with pytest.raises(UserError, match="2 sources are named 'big'"):
        make_loader(MixtureConfig(sources=(big, big)), Layout(8))
    changes = tuple(WeightsConfig(samples_seen=5, weights=(1.0, 1.0)) for _ in range(2))
    with pytest.raises(UserError, match=r"samples_seen above 5"):
        make_loader(MixtureConfig(sources=(big, small), slots=40, changes=changes), Layout(8))


def test_a_batch_larger_than_a_source_is_refused(shards: Path):
    loader = make_loader(mixture(shards), Layout(44))
    with pytest.raises(UserError, match="a batch would take 11 samples of small, which has 10"):
        refuse_small(loader.opened, loader.plan, 44)
    refuse_small(loader.opened, loader.plan, 40)
    drawn = make_loader(mixture(shards), Layout(44), plan=PlanConfig(sampling="replacement"))
    refuse_small(drawn.opened, drawn.plan, 44)


def test_captions_of_a_part_win_over_those_of_the_data(shards: Path):
    config = mixture(shards)
    parts = (config.sources[0], PartConfig(source=config.sources[1].source, weight=1.0, captions=("caption",)))
    opened = open_source(MixtureConfig(sources=parts, slots=40), ("txt",))
    assert opened.source.read(3, 0)["__captions__"] == ("caption",)
    assert opened.source.read(0, 0)["__captions__"] == ("txt",)
