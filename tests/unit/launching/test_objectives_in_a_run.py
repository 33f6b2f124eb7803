"""Objectives over views and several objectives in a run file: what equals what, and what cannot be together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmclip.batch import DataPosition
from mmclip.errors import UserError
from mmclip.training.progress import Progress
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.tables import from_table

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
SIMCLR = {"type": "simclr", "hidden": 16, "out": 8}
DINO = {"type": "dino", "hidden": 16, "bottleneck": 8, "prototypes": 6, "local_views": 1}


def config_of(**tables: Any) -> RunConfig:
    table = {
        "output": "unused",
        "global_batch_size": 8,
        "precision": "fp32",
        "device": "cpu",
        "length": {"steps": 6},
        "model": {"inline": MODEL},
        "data": {"source": {"type": "tars", "shards": "embedded:emoji/unseen-concept-*.tar"}, "workers": 0},
    }
    return from_table(RunConfig, table | tables, "a run")


def weights_after(config: RunConfig, steps: int = 2) -> dict[str, Tensor]:
    run = assemble(config, build_accelerator(config))
    progress, batches = Progress(), run.loader.batches(DataPosition(0))
    for _ in range(steps):
        run.step(run.step.measured(next(batches)), progress)
        progress = progress.after(config.global_batch_size)
    return run.step.module.towers.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_recipes_without_their_additions_are_the_plain_objective_to_the_last_bit():
    clip = weights_after(config_of())
    slip = weights_after(config_of(auxiliary=[{"objective": SIMCLR, "weight": 0.0}]))
    assert equal(clip, slip)
    late = weights_after(config_of(auxiliary=[{"objective": SIMCLR, "start": 0.9}]))
    assert equal(clip, late)
    flip = weights_after(config_of(towers={"patch_dropout": 0.0}))
    assert equal(clip, flip)
    assert not equal(clip, weights_after(config_of(auxiliary=[{"objective": SIMCLR, "weight": 0.1}])))
    assert not equal(clip, weights_after(config_of(towers={"patch_dropout": 0.5})))
    siglip = {"type": "siglip"}
    assert equal(
        weights_after(config_of(objective=siglip)),
        weights_after(config_of(objective=siglip, auxiliary=[{"objective": DINO, "weight": 0.0}])),
    )


def test_without_pairs_the_text_tower_and_the_scale_rest():
    plain = assemble(config_of(), build_accelerator(config_of())).step.module.towers.state_dict()
    after = weights_after(config_of(objective=SIMCLR))
    moved = {name for name in plain if not torch.equal(plain[name], after[name])}
    assert moved
    assert all(name.startswith("backbone.visual.") for name in moved)
    assert "backbone.visual.proj" not in moved  # objectives over pooled features do not read the projection


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        (
            {"objective": SIMCLR, "sharding": {"method": "fsdp2"}},
            "fsdp2.* does not go with objectives that look at further",
        ),
        (
            {"objective": {"type": "queue"}, "sharding": {"method": "fsdp2"}},
            "does not go with objectives with momentum towers",
        ),
        (
            {"objective": {"type": "masked"}, "resolution": [{"size": 16, "until": 0.5}]},
            "resolution: momentum towers and the decoder of masked patches keep the size",
        ),
        (
            {"objective": SIMCLR, "image_features": "cache", "towers": {"lock_image": True}},
            "excludes objectives that look at further views",
        ),
        (
            {"objective": SIMCLR, "text_features": "cache", "towers": {"lock_text": True}},
            "excludes objectives without pairs",
        ),
        (
            {"objective": {"type": "clip", "image_view": "global"}},
            r"image_view='global': no auxiliary objective has such a view",
        ),
        ({"auxiliary": [{"objective": SIMCLR, "weight": -1.0}]}, r"auxiliary\.weight=-1\.0"),
        ({"auxiliary": [{"objective": {"type": "simcrl"}}]}, r"auxiliary.*objective.*did you mean 'simclr'"),
        ({"auxiliary": [{"weight": 1.0}]}, r"auxiliary.*objective"),
    ],
)
def test_what_cannot_be_together_is_refused_by_name(tables: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        config_of(**tables)


def test_an_objective_that_does_not_fit_the_model_is_refused_before_anything_is_written():
    for objective in ({"type": "masked"}, DINO):
        model = {
            "inline": {**MODEL, "embed_dim": 64, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
        }
        config = config_of(objective=objective, model=model)
        with pytest.raises(UserError, match=r"needs|patches"):
            assemble(config, build_accelerator(config))


def test_auxiliary_objectives_stand_in_the_run_file_and_flags_reach_the_main_one(tmp_path: Path):
    (tmp_path / "run.toml").write_text(
        'output = "runs/slip"\nglobal_batch_size = 8\nlength = { steps = 2 }\n'
        'data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" } }\n'
        '[objective]\ntype = "clip"\n[[auxiliary]]\nweight = 0.5\n[auxiliary.objective]\ntype = "simclr"\nhidden = 16\n'
    )
    config = load_run_config(tmp_path / "run.toml", ["--objective.label_smoothing", "0.1"])
    assert config.objective.label_smoothing == 0.1  # pyright: ignore[reportAttributeAccessIssue]
    (part,) = config.auxiliary
    assert (part.weight, part.objective.type, part.objective.hidden) == (0.5, "simclr", 16)  # pyright: ignore[reportAttributeAccessIssue]
