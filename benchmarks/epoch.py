"""Which samples one epoch really hands out: mmclip's loader beside the data pipeline of open_clip's trainer.

    make bench NAME=epoch

No timing: counts, which do not depend on the machine or its load. Both sides read the same shards, made here:
240 samples in 12 shards of 14 to 26, uneven as downloads leave them. 240 is a multiple of every batch and every layout
below, so that neither side must round an epoch up. Each side then runs five epochs, twice, with the same seed.

- seen exactly once: the share of the 240 that an epoch hands out once, neither left out nor repeated
- seen at all: the share of the 240 that an epoch hands out
- same batch again: how much of a step's global batch stands in the same step of a second run with the same seed
- same batch as 1 x 1: the same, against the run on one rank with one loader process

For batches drawn at random the last two are 0.1 (24 of 240) on average, never quite 0, so each has a ratio. The peer's
vary a little with each call, because webdataset seeds its sample shuffle from the clock. A pair of measurements is an
epoch: the spread is that over epochs.
"""

import argparse
import io
import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from measure.document import finish
from measure.open_clip import NAME, open_clip_python, open_clip_versions
from measure.ratios import Row, compare
from PIL import Image

from mmclip.batch import DataPosition
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

SIZES = (23, 17, 26, 14, 20, 21, 15, 24, 18, 22, 16, 24)
SAMPLES, BATCH, EPOCHS, SEED = sum(SIZES), 24, 5, 0
LAYOUTS = ((1, 1), (1, 2), (2, 1))
"""Ranks, and loader processes of each."""
PEER_SCRIPT = Path(__file__).parent / "peers" / "open_clip_epochs.py"

Epoch = list[list[int]]
"""The numbers of the samples in each step's global batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Which samples an epoch hands out, mmclip beside open_clip.")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/epoch.json)")
    options = parser.parse_args()
    python = open_clip_python()
    with TemporaryDirectory() as folder:
        make_shards(Path(folder))
        rows = []
        ours_alone = peer_alone = None
        for ranks, workers in LAYOUTS:
            ours = [our_epochs(Path(folder), ranks, workers) for _ in range(2)]
            peer = [peer_epochs(python, Path(folder), ranks, workers) for _ in range(2)]
            ours_alone, peer_alone = ours_alone or ours[0], peer_alone or peer[0]
            rows += rows_of(f"{ranks} x {workers} (ranks x workers)", ours, peer, ours_alone, peer_alone)
    settings = {"samples": SAMPLES, "shards": list(SIZES), "global_batch_size": BATCH, "epochs": EPOCHS, "seed": SEED}
    finish("epoch", rows, open_clip_versions(python), settings, options.output)


def rows_of(
    case: str,
    ours: Sequence[list[Epoch]],
    peer: Sequence[list[Epoch]],
    ours_alone: list[Epoch],
    peer_alone: list[Epoch],
) -> list[Row]:
    """The figures of one layout; the rows against one rank with one worker say nothing in that layout itself."""
    once, seen = ([[share(epoch) for epoch in side[0]] for side in (ours, peer)] for share in (share_once, share_seen))
    measured: dict[str, list[list[float]]] = {
        "seen exactly once (share)": once,
        "seen at all (share)": seen,
        "same batch again (share)": [overlaps(side[0], side[1]) for side in (ours, peer)],
    }
    if ours[0] is not ours_alone:
        measured["same batch as 1 x 1 (share)"] = [overlaps(ours[0], ours_alone), overlaps(peer[0], peer_alone)]
    return [
        compare(case, metric, of_ours, of_peer, NAME, higher_is_better=True)
        for metric, (of_ours, of_peer) in measured.items()
    ]


def share_once(epoch: Epoch) -> float:
    """Share of the samples that came exactly once."""
    counts = Counter(number for batch in epoch for number in batch)
    return sum(count == 1 for count in counts.values()) / SAMPLES


def share_seen(epoch: Epoch) -> float:
    """Share of the samples that came."""
    return len({number for batch in epoch for number in batch}) / SAMPLES


def overlaps(run: Sequence[Epoch], other: Sequence[Epoch]) -> list[float]:
    """For each epoch, the mean over its steps of the share of a batch that both runs had in that step."""
    return [
        mean(len(set(a) & set(b)) / BATCH for a, b in zip(*epochs, strict=True))
        for epochs in zip(run, other, strict=True)
    ]


def make_shards(folder: Path) -> None:
    """Shards that both sides read; a sample's caption is its number."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    number = 0
    for shard, size in enumerate(SIZES):
        with ShardWriter(folder, f"{shard:02d}.tar", samples_per_shard=None) as writer:
            for _ in range(size):
                writer.add(f"{number:04d}", {"png": picture.getvalue(), "txt": str(number).encode()})
                number += 1


def our_epochs(folder: Path, ranks: int, workers: int) -> list[Epoch]:
    """The global batches of a run of mmclip, one `TrainLoader` a rank."""
    config = DataConfig(source=IndexedTarsConfig(shards=str(folder)), workers=workers)
    spec = ImageSpec(size=(8, 8))
    streams = [
        TrainLoader(config, spec, numbers_of, Layout(BATCH, rank, ranks), SEED).batches(DataPosition(0))
        for rank in range(ranks)
    ]
    steps = [
        [number for stream in streams for number in next(stream).tokens.flatten().tolist()] for _ in range(total())
    ]
    return by_epoch(steps)


def numbers_of(captions: Sequence[str]) -> torch.Tensor:
    """In place of a tokenizer: the number that a caption is."""
    return torch.tensor([[int(caption)] for caption in captions])


def peer_epochs(python: Path, folder: Path, ranks: int, workers: int) -> list[Epoch]:
    """The global batches of open_clip's trainer; webdataset takes the rank from the variables that torchrun sets."""
    shards = f"{folder}/{{00..{len(SIZES) - 1:02d}}}.tar"
    wanted = {
        "shards": shards,
        "samples": SAMPLES,
        "batch_size": BATCH,
        "workers": workers,
        "seed": SEED,
        "epochs": EPOCHS,
    }
    parts: list[list[Epoch]] = []
    for rank in range(ranks):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        command = [str(python), str(PEER_SCRIPT), json.dumps(wanted)]
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"open_clip's pipeline failed:\n{done.stderr[-3000:]}")
        parts.append(json.loads(done.stdout.splitlines()[-1]))
    return [[sum(batches, []) for batches in zip(*epochs, strict=True)] for epochs in zip(*parts, strict=True)]


def total() -> int:
    return EPOCHS * SAMPLES // BATCH


def by_epoch(steps: list[list[int]]) -> list[Epoch]:
    """The steps of a run, cut into epochs."""
    size = SAMPLES // BATCH
    return [steps[start : start + size] for start in range(0, len(steps), size)]


if __name__ == "__main__":
    main()
