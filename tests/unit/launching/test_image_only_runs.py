"""Pictures alone and objectives that need pairs, and what is held out of pictures alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmclip.errors import UserError
from mmclip.objectives import ClipConfig, ObjectiveNeeds
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.build import build_loader
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig, SyntheticConfig
from mmclip_data.shards import ShardWriter
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.pairing import refuse_unpaired, told_of_pairs
from mmclip_launch.run.recipe.chosen import choose_samples, dev_set

RUN = 'output = "runs/x"\nglobal_batch_size = 8\nlength = {{ steps = 3 }}\n{extra}\n[data]\nimage_only = true\n'
SOURCE = '[data.source]\ntype = "synthetic"\n'


def write(folder: Path, extra: str = "") -> Path:
    (folder / "run.toml").write_text(RUN.format(extra=extra) + SOURCE)
    return folder / "run.toml"


def settings(image_only: bool, **changes: Any) -> Any:
    lone = SimpleNamespace(type="lone", needs=ObjectiveNeeds(pairs=False))
    data = DataConfig(source=SyntheticConfig(), image_only=image_only)
    return SimpleNamespace(
        **{"objective": lone, "data": data, "image_features": None, "text_features": None, **changes}
    )


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_an_objective_of_pairs_is_refused_by_name_beside_pictures_alone(tmp_path: Path, objective: str) -> None:
    with pytest.raises(UserError, match=rf"objective '{objective}'.*data\.image_only"):
        load_run_config(write(tmp_path, f'objective = {{ type = "{objective}" }}'))


def test_an_auxiliary_objective_of_pairs_is_refused_too() -> None:
    refuse_unpaired(settings(True))
    with pytest.raises(UserError, match="objective 'clip'"):
        refuse_unpaired(settings(True, auxiliary=[SimpleNamespace(objective=ClipConfig())]))


@pytest.mark.parametrize("field", ["image_features", "text_features"])
def test_features_computed_before_the_run_are_refused_beside_pictures_alone(field: str) -> None:
    with pytest.raises(UserError, match=field):
        refuse_unpaired(settings(True, **{field: "features"}))


def test_a_run_says_where_captions_make_no_difference() -> None:
    (line,) = told_of_pairs(settings(False))
    assert "data.image_only = true" in line
    assert not list(told_of_pairs(settings(True)))
    assert not list(told_of_pairs(settings(False, auxiliary=[SimpleNamespace(objective=ClipConfig())])))


def test_what_is_held_out_of_pictures_alone_is_not_learnt_from_and_measured_by_nobody(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "{}.tar", samples_per_shard=8) as writer:
        for key, members in make_shard(32).samples.items():
            writer.add(key, {"jpg": members["jpg"]})
    source = IndexedTarsConfig(shards=str(tmp_path))
    data = DataConfig(source=source, image_only=True, held_out=HeldOutConfig(share=0.3), workers=0)
    chosen = choose_samples(data)
    assert chosen is not None
    assert dev_set(data) == ()
    loader = build_loader(data, ImageSpec(size=(12, 12)), lambda captions: None, Layout(4), 0, chosen=chosen)  # pyright: ignore
    assert loader.samples_per_epoch == len(chosen.classes)
    assert 16 < loader.samples_per_epoch < 32
