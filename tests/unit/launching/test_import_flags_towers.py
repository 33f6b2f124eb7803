"""Flags about the towers: locks, sizes, patch dropout, how they compute, and checkpoints to go on from."""

from pathlib import Path

import pytest
import torch

from mmclip.errors import UserError
from mmclip.release import create
from mmclip_launch.import_flags import run_file, translate
from mmclip_launch.import_flags.command import read_command
from mmclip_launch.run.config import RunConfig, load_run_config

WDS = (
    "python -m open_clip_train.main --train-data d/{0..9}.tar --train-num-samples 1000 --dataset-type webdataset "
    "--model ViT-B-32 --warmup 2 "
)


def text_of(command: str) -> str:
    return run_file(translate(read_command(command)), "RUN.toml")


def config_of(command: str, folder: Path) -> RunConfig:
    (folder / "run.toml").write_text(text_of(command))
    return load_run_config(folder / "run.toml")


def test_the_towers_of_the_command_are_those_of_the_run(tmp_path: Path):
    locks = "--lock-image --lock-image-unlocked-groups 2 --lock-text --lock-text-unlocked-layers 3"
    flags = "--lock-text-freeze-layer-norm --grad-checkpointing --torchcompile --force-patch-dropout 0.25"
    config = config_of(f"{WDS} --model RN50 {locks.replace('-unlocked-groups 2', '-freeze-bn-stats')}", tmp_path)
    assert (config.towers.lock_image, config.towers.freeze_batch_norm) == (True, True)
    sizes = "--force-image-size 16 --force-context-length 12"
    config = config_of(f"{WDS} --model nano-vit-32 {locks} {flags} {sizes}", tmp_path)
    towers = config.towers
    assert (towers.activation_checkpointing, towers.compile, towers.patch_dropout) == (True, True, 0.25)
    assert (towers.freeze_batch_norm, config.model.image_size, config.model.context_length) == (False, 16, 12)
    ours = create(config.model, False, config.towers)
    theirs = create(config.model, False).backbone
    theirs.lock_image_tower(unlocked_groups=2, freeze_bn_stats=False)
    theirs.lock_text_tower(unlocked_layers=3, freeze_layer_norm=True)
    learns = [{n for n, p in model.named_parameters() if p.requires_grad} for model in (ours.backbone, theirs)]
    assert learns[0] == learns[1]
    assert ours.spec.size == (16, 16)


def test_weights_follow_forced_sizes_and_patch_dropout(tmp_path: Path):
    config = config_of(f"{WDS} --pretrained openai --force-image-size 336 --force-patch-dropout 0.5", tmp_path)
    assert (config.model.init, config.model.image_size) == ("open_clip:ViT-B-32/openai", 336)
    assert config.towers.patch_dropout == 0.5


def test_a_locked_text_tower_whose_layer_norms_would_learn_there_is_said_loudly():
    text = text_of(f"{WDS} --lock-text")
    assert text.startswith(
        "# NOT carried over:\n#   --lock-text: without --lock-text-freeze-layer-norm open_clip stops"
    )
    assert "NOT carried over" not in text_of(f"{WDS} --lock-text --lock-text-freeze-layer-norm")


def test_bare_weights_to_resume_from_start_a_new_run(tmp_path: Path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "bare.pt")
    torch.save({"epoch": 1, "state_dict": {}, "optimizer": {}}, tmp_path / "epoch_1.pt")
    config = config_of(f"{WDS} --resume {tmp_path}/bare.pt", tmp_path)
    assert (config.model.init, config.resume_open_clip) == (f"open_clip:ViT-B-32/{tmp_path}/bare.pt", None)
    config = config_of(f"{WDS} --resume {tmp_path}/epoch_1.pt --pretrained openai", tmp_path)
    assert (config.model.init, config.resume_open_clip) == ("open_clip:ViT-B-32/openai", f"{tmp_path}/epoch_1.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match="cut.pt cannot be read"):
        text_of(f"{WDS} --resume {tmp_path}/cut.pt")
    with pytest.raises(UserError, match="copy the file to this machine first"):
        text_of(f"{WDS} --resume s3://x/epoch_1.pt")
