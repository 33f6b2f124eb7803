"""LiT with features computed once: the locked image tower sees each picture before the first step, and none after it."""

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from mmclip.errors import UserError
from mmclip.towers.embedding import evaluating
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision, autocast
from mmclip_data.features.cache import BLOCK_ROWS, FeatureCache, FeatureKey
from mmclip_data.features.encode_once import SourcePictures, fill, missing_blocks
from mmclip_data.features.model import Towers
from mmclip_data.features.tower_threads import tower_threads
from mmclip_data.loading.loader import TrainLoader
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.hooks import Run
from mmclip_launch.run.precision import settled
from mmclip_launch.screen import Screen


def refuse_learning(towers: TwoTower) -> None:
    """Refuse an image tower some of which learns although it is locked.

    Raises:
        UserError: naming the first such weight.
    """
    learns = [name for name, weight in towers.backbone.visual.named_parameters() if weight.requires_grad]
    if learns:
        raise UserError(
            f"image_features: {len(learns)} weights of the locked image tower learn all the same, the first visual.{learns[0]} "
            "(the head of a timm tower does, as in open_clip): leave image_features out, or take another tower"
        )


def encode_once(config: RunConfig, accelerator: Accelerator, run: Run, screen: Screen) -> None:
    """Encode what the cache lacks, each rank its share, and let the loader hand on features instead of pictures.

    Raises:
        UserError: an embedding is not finite, or the cache holds other features.
        MachineError: the disk has no room.
    """
    if config.image_features is None:
        return
    towers, loader = run.step.module.towers, run.loader
    assert isinstance(loader, TrainLoader), "streams were refused"
    pictures = SourcePictures(loader.source, towers.spec.to_uint8)
    key = FeatureKey(
        tower=Towers(towers).hashes["image"],
        precision=settled(config),
        spec=towers.spec,
        source=loader.source.fingerprint,
        rows=len(pictures),
        embed_dim=int(towers.model_cfg["embed_dim"]),
        block_rows=BLOCK_ROWS,
    )
    rank, ranks = accelerator.process_index, accelerator.num_processes
    others = [path.name for path in Path(config.image_features).glob("*/key.json") if path.parent.name != key.digest]
    cache = FeatureCache(Path(config.image_features), key)
    mine = missing_blocks(cache, rank, ranks)
    what = f"{len(mine):,} of {cache.blocks:,} blocks of {key.block_rows:,} to encode" if mine else "all there"
    beside = f"; {len(others)} other keys stand beside it" if others and mine else ""
    screen.say(f"features of {key.rows:,} pictures in {cache.folder}: {what}{beside}")
    embed, together = partial(_embed, towers, settled(config)), tower_threads(accelerator.device)
    passed = fill(cache, pictures, embed, rank=rank, ranks=ranks, towers=together)
    with evaluating(towers):  # here for all threads, not by each for itself
        for _ in screen.track(passed, len(mine), "image features"):
            pass
    accelerator.wait_for_everyone()
    features = cache.features()
    if features.bad:
        row, reason = next(iter(features.bad.items()))
        name = loader.source.sample_id(*pictures.place(row))
        screen.warn(f"{len(features.bad):,} pictures have no features and are replaced, the first {name}: {reason}")
    loader.take_features(features)


def _embed(
    towers: TwoTower, precision: Precision, images: UInt8[Tensor, "batch 3 height width_px"]
) -> Float[Tensor, "batch embed"]:
    with autocast(precision, torch.device(towers.device)):
        return towers.embed_uint8(images)
