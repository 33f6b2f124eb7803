"""What a run refuses or says about its shards before the first step: from the source to the words, nothing in between."""

from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.loading.census import refuse_small, refuse_unusable
from mmclip_data.loading.mixture import MixtureConfig, PartConfig, order_of
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.plan import PlanConfig
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard

SAMPLES = make_shard(6).samples
BROKEN = {key: {**members, "jpg": members["jpg"][:60]} for key, members in SAMPLES.items()}


def write(folder: Path, samples: dict[str, dict[str, bytes]]) -> IndexedTarsConfig:
    with ShardWriter(folder, "{}.tar", samples_per_shard=3) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return IndexedTarsConfig(shards=str(folder), name=folder.name)


def test_pictures_that_no_decoder_takes_are_refused(tmp_path: Path) -> None:
    opened = open_source(write(tmp_path / "in", BROKEN), None)
    with pytest.raises(
        UserError, match=r"none of 6 samples looked at can be used, the first being in/0\.tar/000000: picture"
    ):
        refuse_unusable(opened, 0.01)


def test_one_good_sample_is_enough_to_begin(tmp_path: Path) -> None:
    mended = {**BROKEN, "000004": SAMPLES["000004"]}
    assert refuse_unusable(open_source(write(tmp_path / "in", mended), None), 0.01) == []


def test_each_source_of_a_mixture_is_looked_at(tmp_path: Path) -> None:
    parts = [PartConfig(source=write(tmp_path / name, made)) for name, made in (("good", SAMPLES), ("bad", BROKEN))]
    with pytest.raises(UserError, match=r"the first being bad/0\.tar/000000"):
        refuse_unusable(open_source(MixtureConfig(sources=tuple(parts)), None), 0.01)


def test_counts_that_others_wrote_are_said_when_they_differ(tmp_path: Path) -> None:
    config = write(tmp_path / "in", SAMPLES)
    (tmp_path / "in" / "sizes.json").write_text('{"0.tar": 3, "1.tar": 30}')
    (line,) = refuse_unusable(open_source(config, None), 0.01)
    assert "30 in sizes.json, 3 in the tar" in line


def test_a_batch_larger_than_its_source_is_refused_unless_draws_allow_it(tmp_path: Path) -> None:
    opened = open_source(write(tmp_path / "in", SAMPLES), None)
    refuse_small(opened, order_of(opened.source, PlanConfig(), 0), 6)
    refuse_small(opened, order_of(opened.source, PlanConfig(sampling="replacement"), 0), 7)
    with pytest.raises(UserError, match=r"global_batch_size=7: a batch would take 7 samples of in, which has 6"):
        refuse_small(opened, order_of(opened.source, PlanConfig(), 0), 7)
