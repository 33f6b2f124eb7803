"""What a checkpoint costs a training run, beside `torch.save` of the same state; and how soon a resumed run has data.

    make bench NAME=checkpoint                                   # some minutes of an idle machine, 8 GB of memory, 8 of disk
    .venv/bin/python benchmarks/checkpoint.py --quick --output /tmp/checkpoint.json     # a tiny model: a look, not a figure

Equal on both sides: model (ViT-B/32), weights, optimizer and its moments (1.8 GB in all), batch, steps, number of saves, and
the disk; one core computes, as with a loader process beside it. The peer saves as trainers do: `torch.save` of the state
dicts of model and optimizer, then training goes on; nothing is synced, sealed or read back. mmclip saves as its runs do, and
what it saves is whole and durable: snapshot, safetensors, SHA-256, fsync, read back, rename.

`stall`: blocks of steps without a save, with ours after the first step, with the peer's after the first step, in turn; a block
is about as long as ours takes until it is on the disk, so saves come back to back. The figure is the wall time by which a block
takes longer than the median block without a save, or, if that is more, what the call itself took: what writing steals from the
steps that follow counts.

`resume` (no peer): from nothing but a position in a plan of 10^9 samples in 100,000 shards to the first batch of 64.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from measure.captions import pairs
from measure.document import finish
from measure.interleave import interleave
from measure.photographs import write_shards
from measure.ratios import Row, compare
from measure.trainers import Ours

from mmclip.batch import DataPosition
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import model_cfg_of
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.checkpoint.contents import Trained, TrainingState, checkpoint_bytes, contents
from mmclip.training.checkpoint.lease import claim
from mmclip.training.checkpoint.saver import Saver
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.mixture import order_of
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig, Source

QUICK_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 32, "width": 96, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
NAME = f"torch.save {torch.__version__}"
STEPS, BATCH = 8, 2
SHARDS, SHARD_SAMPLES = 100_000, 10_000
POSITIONS = (0, 123_456_789, 999_999_999, 5_000_000_017)


def main() -> None:
    parser = argparse.ArgumentParser(description="Checkpoints beside training, mmclip beside torch.save.")
    parser.add_argument("--repetitions", type=int, default=7, help="rounds of all sides (default: 7)")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"optimizer steps of a side in a round (default: {STEPS})"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model: a look, not a figure")
    parser.add_argument("--folder", type=Path, help="where checkpoints go (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/checkpoint.json)")
    options = parser.parse_args()
    cfg = QUICK_CFG if options.quick else model_cfg_of("ViT-B-32")
    with TemporaryDirectory(dir=options.folder) as folder:
        row, state_bytes = stall(cfg, Path(folder), options.steps, options.repetitions)
        ready = {position: resume(position, Path(folder) / "shards") for position in POSITIONS}
    figures = [
        {"case": "resume", "metric": f"seconds to a batch at position {position:,}", "value": round(seconds, 4)}
        for position, seconds in ready.items()
    ]
    for figure in figures:
        print(f"{figure['case']}: {figure['metric']}: {figure['value']}")
    settings = {"steps": options.steps, "batch": BATCH, "state_bytes": state_bytes, "repetitions": options.repetitions}
    finish("checkpoint", [row], {}, settings, options.output, figures=figures)


class Sides:
    """The same trainer without saves, with ours, and with the peer's."""

    def __init__(self, cfg: dict[str, Any], folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.ours = Ours(cfg, torch.device("cpu"), batch=BATCH)
        self.batch = self.ours.prepared(pairs(BATCH, cfg, 1))
        self.trained = Trained(self.ours.module, self.ours.optimizer)
        self.ours.run(self.batch, 2)  # moments are made by the first step, buffers by the second
        self.saver = Saver(claim(folder / "run"), CheckpointConfig(keep=2), print)
        self.saver.prepare(checkpoint_bytes(self.trained))
        self.save_ours(0)  # and the memory of the snapshot by the first save
        self.saver.wait()
        self.late_seconds: list[float] = []

    def save_ours(self, step: int) -> None:
        """What a run's hook does."""
        self.saver.save(step, contents(self.trained, TrainingState(self.ours.progress, "none", 1)))

    def save_peer(self, number: int) -> None:
        """What trainers do: model and optimizer into a file; the one before the last goes."""
        state = {"state_dict": self.ours.module.state_dict(), "optimizer": self.ours.optimizer.state_dict()}
        torch.save(state, self.folder / f"epoch_{number}.pt")
        (self.folder / f"epoch_{number - 2}.pt").unlink(missing_ok=True)

    def without(self, _: int) -> tuple[float, float]:
        return self._timed(lambda: None)

    def with_ours(self, repetition: int) -> tuple[float, float]:
        timed = self._timed(lambda: self.save_ours(repetition + 1))
        before = time.perf_counter()
        self.saver.wait()
        self.late_seconds.append(time.perf_counter() - before)
        return timed

    def with_peer(self, repetition: int) -> tuple[float, float]:
        timed = self._timed(lambda: self.save_peer(repetition))
        os.sync()  # what it left to the system is no burden to the next side
        return timed

    def _timed(self, save: Callable[[], None]) -> tuple[float, float]:
        """Wall seconds of all steps with a save after the first of them, and of the call that saves."""
        begin = time.perf_counter()
        self.ours.run(self.batch)
        since = time.perf_counter()
        save()
        in_call = time.perf_counter() - since
        self.ours.run(self.batch, self.steps - 1)
        return time.perf_counter() - begin, in_call


def stall(cfg: dict[str, Any], folder: Path, steps: int, repetitions: int) -> tuple[Row, int]:
    """Wall seconds that a save adds to the steps around it, and the size of the state."""
    sides = Sides(cfg, folder, steps)
    measures = {"without": sides.without, "ours": sides.with_ours, "peer": sides.with_peer}
    timed = interleave(measures, repetitions)
    sides.saver.close()
    for name, values in timed.items():
        print(f"{name}: " + ", ".join(f"{seconds:.2f} s ({call:.2f} in the call)" for seconds, call in values))
    print("ours was still being written after the last step for " + ", ".join(f"{s:.2f} s" for s in sides.late_seconds))
    base = median(seconds for seconds, _ in timed["without"])
    added = {name: [max(seconds - base, in_call) for seconds, in_call in timed[name]] for name in ("ours", "peer")}
    row = compare("stall", "wall seconds a save", added["ours"], added["peer"], NAME, higher_is_better=False)
    return row, checkpoint_bytes(sides.trained)


class Wide:
    """A real shard, many times over: an index of 10^9 samples without their disks."""

    def __init__(self, source: Source, samples: int) -> None:
        self._source = source
        self._samples = samples
        self.shard_sizes = np.full(SHARDS, SHARD_SAMPLES, dtype=np.int64)
        self.fingerprint = "wide"

    def sample_id(self, shard: int, row: int) -> str:
        return f"wide/{shard}/{row}"

    def read(self, shard: int, row: int) -> dict[str, Any]:
        return self._source.read(0, row % self._samples)


def resume(position: int, folder: Path) -> float:
    """Seconds from a position alone to the batch that stands there."""
    if not folder.exists():
        write_shards(folder, 256, 90, 64)
    config = DataConfig(source=IndexedTarsConfig(shards=str(folder)), workers=0)
    tokenizer = Tokenizer(QUICK_CFG["text_cfg"])
    loader = TrainLoader(config, ImageSpec(size=(224, 224)), tokenizer, Layout(64, 0, 1), seed=1)
    loader.source = Wide(loader.source, int(loader.source.shard_sizes.sum()))
    begin = time.perf_counter()
    loader.plan = order_of(loader.source, config.plan, 1)
    batch = next(loader.batches(DataPosition(position)))
    seconds = time.perf_counter() - begin
    assert len(batch.ids) == 64
    assert not batch.replaced
    located = loader.plan.locate_all(list(range(position, position + 64)))
    assert len(set(located)) == 64, "all of them distinct samples of the wide plan"
    return seconds


if __name__ == "__main__":
    main()
