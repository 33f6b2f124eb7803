"""What asks for sharding, and what does not go with it."""

from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from mmclip.errors import UserError
from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.settings import TowersConfig
from mmclip.training.module import TrainingModule
from mmclip.training.sharding import shard
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.sharding import asked_of_launcher, told_of_sharding

ROOT = Path(__file__).parents[3]
SHARDED = ("--sharding.method", "fsdp2")


def run_of(*flags: str) -> RunConfig:
    return load_run_config(ROOT / "launch" / "configs" / "tiny-vit.toml", flags)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--precision", "fp16"), "fp16"),
        (("--channels_last", "True"), "channels_last"),
        (("--towers.lora.rank", "2"), r"towers\.lora"),
        (("--resume_open_clip", "epoch_1.pt"), "resume_open_clip"),
        (("--image_features", "somewhere", "--towers.lock_image", "True"), "image_features"),
    ],
)
def test_what_does_not_go_with_shards_is_refused_by_name(flags: tuple[str, ...], named: str):
    run_of(*SHARDED)
    with pytest.raises(UserError, match=rf"fsdp2.*{named}"):
        run_of(*flags, *SHARDED)


def test_replicas_without_shards_are_refused():
    with pytest.raises(UserError, match=r"sharding\.replicas=2 is for"):
        run_of("--sharding.replicas", "2")


def test_accelerate_with_fsdp_version_2_asks_for_shards_and_is_not_asked_itself():
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "RANK": "0"}
    config = asked_of_launcher(run_of(), environment)
    assert config.sharding.method == "fsdp2"
    assert environment == {"FSDP_VERSION": "2", "RANK": "0"}
    assert "4 parts (FSDP2)" in told_of_sharding(config, 4)[0]
    assert "one process" in told_of_sharding(config, 1)[0]
    assert told_of_sharding(run_of(), 4) == []


@pytest.mark.parametrize("version", [{}, {"FSDP_VERSION": "1"}])
def test_accelerate_with_fsdp_version_1_is_refused_with_the_fix(version: dict[str, str]):
    with pytest.raises(UserError, match="fsdp_version: 2"):
        asked_of_launcher(run_of(), {"ACCELERATE_USE_FSDP": "true", **version})


def test_a_run_that_nobody_wants_sharded_stays_as_it_is():
    assert asked_of_launcher(run_of(), {"ACCELERATE_USE_FSDP": "false"}) == run_of()


def test_accelerate_reads_the_file_for_shards():
    config: Any = load_config_from_file(str(ROOT / "launch" / "accelerate" / "fsdp2.yaml"))
    assert str(config.distributed_type).endswith("FSDP")
    assert config.fsdp_config["fsdp_version"] == 2


def test_groups_of_captions_of_which_ranks_have_different_numbers_are_refused():
    towers = create(ModelConfig(arch="nano-vit-32"), False, TowersConfig(compile=True, compile_backend="eager"))
    module = TrainingModule(towers, ClipConfig().build(), "fp32", world_size=2)
    with pytest.raises(UserError, match="towers.text_groups = 1"):
        shard(module, None)  # pyright: ignore[reportArgumentType] - refused before the mesh is asked
