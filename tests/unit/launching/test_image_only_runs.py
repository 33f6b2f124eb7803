"""Pictures alone and objectives that need pairs, and what is held out of pictures alone."""

from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.assemble import no_tokens
from mmclip_data.loading.build import build_loader
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.pairing import told_of_pairs
from mmclip_launch.run.recipe.chosen import choose_samples, dev_set
from mmclip_launch.train import train

RUN = """
output = "runs/x"
global_batch_size = 8
length = { steps = 3 }
device = "cpu"
precision = "fp32"
evaluation = { report = false }
model = { arch = "nano-vit-32" }
[data.source]
type = "synthetic"
samples = 64
image_size = 40
"""
LONE = ("--objective.type", "vicreg", "--objective.hidden", "16", "--objective.out", "8")
ALONE = ("--data.image_only", "True")
BESIDE = '[[auxiliary]]\nobjective = { type = "clip" }\n'


def config(folder: Path, *flags: str, more: str = "") -> RunConfig:
    (folder / "run.toml").write_text(RUN + more)
    return load_run_config(folder / "run.toml", flags)


@pytest.mark.parametrize("objective", ["clip", "siglip", "queue"])
def test_an_objective_of_pairs_is_refused_by_name_beside_pictures_alone(tmp_path: Path, objective: str) -> None:
    with pytest.raises(UserError, match=rf"objective '{objective}'.*data\.image_only"):
        config(tmp_path, "--objective.type", objective, *ALONE)


def test_an_auxiliary_objective_of_pairs_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective 'clip'.*data\.image_only"):
        config(tmp_path, *LONE, *ALONE, more=BESIDE)


@pytest.mark.parametrize("field", ["image_features", "text_features"])
def test_features_computed_before_the_run_are_refused_beside_pictures_alone(tmp_path: Path, field: str) -> None:
    with pytest.raises(UserError, match=field):
        config(tmp_path, *LONE, *ALONE, f"--{field}", "features")


def test_a_run_says_where_captions_make_no_difference(tmp_path: Path) -> None:
    (line,) = told_of_pairs(config(tmp_path, *LONE))
    assert "data.image_only = true" in line
    assert not list(told_of_pairs(config(tmp_path, *LONE, *ALONE)))
    assert not list(told_of_pairs(config(tmp_path, *LONE, more=BESIDE)))


def test_a_run_of_pictures_alone_learns_what_one_beside_captions_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for number, flags in enumerate((ALONE, ())):
        folder = train(config(tmp_path, *LONE, *flags, "--output", str(tmp_path / str(number)), "--data.workers", "0"))
        losses.append((folder / "ledger.jsonl").read_text())
        assert ("captions are ignored" in capsys.readouterr().err) == (not flags)
    assert losses[0] == losses[1]


def test_what_is_held_out_of_pictures_alone_is_not_learnt_from_and_measured_by_nobody(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for key, members in make_shard(32).samples.items():
            writer.add(key, {"jpg": members["jpg"]})
    source = IndexedTarsConfig(shards=str(tmp_path))
    data = DataConfig(source=source, image_only=True, held_out=HeldOutConfig(share=0.3), workers=0)
    chosen = choose_samples(data)
    assert chosen is not None
    assert dev_set(data) == ()
    loader = build_loader(data, ImageSpec(size=(12, 12)), no_tokens, Layout(4), 0, chosen=chosen)
    assert loader.samples_per_epoch == len(chosen.classes)
    assert 16 < loader.samples_per_epoch < 32
