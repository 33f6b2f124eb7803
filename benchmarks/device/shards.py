"""From JPEG shards to trained steps of the first model in bf16: both trainers' loaders, loops and steps in this process.

Pictures are made here (coarse noise enlarged, with grain, JPEG q90): a rented machine may have no network. open_clip's loader
runs on the webdataset that is installed; what newer versions hand over at a tar's end, where its trainer fails, is left out.
"""

import io
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measure.probe import cpu_seconds
from measure.trainers import Ours, Peer
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from device.notes import Notes
from device.scale import Scale
from mmclip.batch import DataPosition
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

FILES, GRAIN, COARSE, SHARDS = 32, 6.0, 24, 32
WORDS = ("two", "red", "old", "dogs", "house", "tree", "street", "river", "near", "under", "people", "sky")


def run(notes: Notes, scale: Scale, device: torch.device) -> None:
    """Each side once, ours first; the first quarter of the steps warms up."""
    model = scale.models[0]
    cfg, batch = model.cfg(), scale.shard_batch
    case = f"JPEG {scale.side} px to steps of {model.name}, batch {batch}, bf16, {scale.workers} workers"
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, scale)
        ours = Ours(cfg, device, "bf16", batch=batch)
        mine = watched(partial(train_ours, ours, folder, scale), scale, device)
        note(notes, f"{case}, mmclip", mine)
        peer = Peer(cfg, ours.towers.backbone.state_dict(), device, "bf16")
        theirs = watched(partial(train_peer, peer, folder, scale, ours), scale, device)
        for metric, better in (("samples/s", True), ("CPU milliseconds a sample", False)):
            notes.row(case, metric, [mine[metric]], [theirs[metric]], higher_is_better=better)


def note(notes: Notes, case: str, figures: dict[str, float]) -> None:
    for metric, value in figures.items():
        notes.figure(case, metric, value)


def watched(train: Callable[[], object], scale: Scale, device: torch.device) -> dict[str, float]:
    """Samples a second, and CPU time of all processes, from the end of a warm step to the end of the last."""
    warm, numbers, marks = max(1, scale.shard_steps // 4), count(1), []

    def look(*_: Any) -> None:
        if next(numbers) in (warm, scale.shard_steps):
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), cpu_seconds()))

    hook = register_optimizer_step_post_hook(look)
    try:
        train()
    finally:
        hook.remove()
    (began, cpu_began), (ended, cpu_ended) = marks
    samples = (scale.shard_steps - warm) * scale.shard_batch
    cpu = max(1e-3, cpu_ended - cpu_began)  # a toy may end within a tick of the system's counter
    return {"samples/s": samples / (ended - began), "CPU milliseconds a sample": 1000 * cpu / samples}


def train_ours(ours: Ours, folder: Path, scale: Scale) -> None:
    """Loader and loop as `mmclip train` has them."""
    config = DataConfig(source=IndexedTarsConfig(shards=str(folder)), workers=scale.workers)

    def tokenize(captions: Any) -> torch.Tensor:
        return ours.towers.trim(ours.towers.tokenizer(captions))

    loader = TrainLoader(config, ours.towers.spec, tokenize, Layout(scale.shard_batch, 0, 1), 0, say=lambda _: None)
    batches = loader.batches(DataPosition(0))
    for _ in range(scale.shard_steps):
        ours.take(next(batches))
    close: Any = getattr(batches, "close", None)
    if close is not None:
        close()


def train_peer(peer: Peer, folder: Path, scale: Scale, ours: Ours) -> None:
    """`get_wds_dataset` and `train_one_epoch` of its trainer, with its transform."""
    import open_clip_train.data as data
    from open_clip.transform import image_transform

    expand = data.tar_file_expander
    data.tar_file_expander = lambda *given, **named: files_of(expand(*given, **named))
    args = Namespace(
        train_data=f"{folder}/{{00..{SHARDS - 1:02d}}}.tar",
        train_num_samples=scale.shard_steps * scale.shard_batch,
        train_data_upsampling_factors=None,
        dataset_resampled=True,  # an epoch of the steps needs more samples than the shards hold
        seed=0,
        batch_size=scale.shard_batch,
        workers=scale.workers,
        world_size=1,
    )
    transform = image_transform(ours.towers.spec.size, is_train=True)
    try:
        found = data.get_wds_dataset(args, transform, True, tokenizer=ours.towers.tokenizer)
        peer.train(found.dataloader, scale.shard_batch)
    finally:
        data.tar_file_expander = expand


def files_of(members: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The members of a tar without what stands for its end."""
    return (member for member in members if "fname" in member)


def write(folder: Path, scale: Scale) -> None:
    """Shards for both sides."""
    rng = np.random.default_rng(0)
    files = [picture(scale.side, rng) for _ in range(FILES)]
    each = -(-scale.pictures // SHARDS)
    with ShardWriter(folder, "{:02d}.tar", samples_per_shard=each) as writer:
        for number in range(each * SHARDS):
            caption = " ".join(rng.choice(WORDS, rng.integers(4, 20)))
            writer.add(f"{number:08d}", {"jpg": files[number % FILES], "txt": caption.encode()})


def picture(side: int, rng: np.random.Generator) -> bytes:
    """A JPEG that weighs about what a photograph of its size does."""
    coarse = Image.fromarray(rng.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    grainy = smooth + rng.normal(0, GRAIN, (side, side, 1))
    out = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90, subsampling="4:2:0")
    return out.getvalue()
