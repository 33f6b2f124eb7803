"""What one optimizer step of ViT-B/32 costs on one core: mmclip beside open_clip, without a loader.

    make bench NAME=train_step                                         # about a quarter of an hour of an idle machine, 9 GB
    .venv/bin/python benchmarks/train_step.py --quick --output /tmp/train_step.json           # a look, a few seconds

Equal on both sides: architecture, weights, the batch (64 pictures; captions of the lengths that measure/captions.py states as
a law: lognormal, mean 16, standard deviation 10, clipped to 77), AdamW's settings, clipping, one thread
(but for `optimizer` and `optimizer_after_steps`), interpreter and torch.
The loss of both sides at the first step, from the same weights in fp32, agrees to 1e-4, and so does that of the first measured
step; embeddings of the text tower agree to 1e-4 of their norm. Otherwise nothing is written.

Not equal, because it is what each trainer does. open_clip runs `train_one_epoch` of its trainer with its `ClipLoss` and
torch's default AdamW, and all 77 columns of each caption. mmclip runs `TrainStep` with its defaults: captions in groups of like
length, the last block for the pooled token alone, the loss in tiles, fused AdamW; it normalises its pixels within the step,
the peer gets them normalised.

- `b32_fp32`: both in fp32
- `b32_bf16_vs_fp32`: ours in bf16 autocast beside the peer's fp32, its trainer's way on a CPU; the same runs of the peer
- `text_tower`: forward and backward of the text tower alone, 256 captions, fp32
- `optimizer`: the update of the model's 151 million parameters on all cores, each side in processes that do nothing else:
  what the update itself costs
- `optimizer_after_steps`: the same in this process, after the rows above. The temporary tensors of the peer's passes get back
  memory that whole steps have freed, so that it is faster here than alone; a trainer's process is like this one
- `optimizer_after_steps_1_thread`: the same on one core

`b32_bf16_vs_fp32` needs a processor with instructions for bf16 (`mmclip doctor` says whether it has them): without, torch
emulates them, several times slower than fp32.

CPU seconds are the figure to quote; wall seconds feel what else the machine does.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from measure.captions import LAW, captions, pairs
from measure.document import finish
from measure.interleave import interleave
from measure.optimizer_alone import SIDES, spawn
from measure.ratios import Row
from measure.timing import time_rows, time_sides
from measure.trainers import Ours, Peer
from torch import Tensor, nn

from mmclip.batch import ImageTextBatch
from mmclip.towers.architecture import model_cfg_of

NAME = f"open_clip_torch {version('open_clip_torch')}"
BATCH, CAPTIONS, WARM = 64, 256, 8
TOLERANCE = 1e-4
QUICK_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 32, "width": 96, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}

OPTIMIZER_PAIRS = 5
"""Pairs of optimizer steps for one of whole steps: they take a hundredth of the time, and vary more."""
UPDATES = 15
"""Of each process that does nothing else; the median counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The optimizer step of ViT-B/32, mmclip beside open_clip.")
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of measurements of each row (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and batch: a look, not a figure")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/train_step.json)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cfg = QUICK_CFG if options.quick else model_cfg_of("ViT-B-32")
    share = 8 if options.quick else 1
    threads = len(os.sched_getaffinity(0))
    optimizer, updated_difference = optimizer_alone_rows(cfg, 3 * options.repetitions, threads)
    ours = Ours(cfg, torch.device("cpu"), batch=BATCH // share)
    peer = Peer(cfg, ours.towers.backbone.state_dict(), torch.device("cpu"))
    text, text_difference = text_rows(ours, peer, captions(CAPTIONS // share, cfg["text_cfg"], 1), options.repetitions)
    steps, loss_difference = step_rows(ours, peer, cfg, BATCH // share, options.repetitions)
    after_1_thread = optimizer_rows("optimizer_after_steps_1_thread", ours, peer, OPTIMIZER_PAIRS * options.repetitions)
    torch.set_num_threads(threads)
    after = optimizer_rows("optimizer_after_steps", ours, peer, OPTIMIZER_PAIRS * options.repetitions)
    rows = [*steps, *text, *optimizer, *after, *after_1_thread]
    equal = {
        "model_cfg": cfg,
        "batch": BATCH // share,
        "captions": CAPTIONS // share,
        "lengths": LAW,
        "threads": 1,
        "difference": {"loss": loss_difference, "text_embed": text_difference, "updated": updated_difference},
    }
    finish(
        "train_step",
        rows,
        {f"peer {NAME.split()[0]}": NAME.split()[1]},
        {"equal": equal, "pairs": options.repetitions},
        options.output,
    )


def step_rows(ours: Ours, peer: Peer, cfg: dict[str, Any], batch: int, repetitions: int) -> tuple[list[Row], float]:
    """Whole steps; and the largest relative difference of the losses that both sides must agree in."""
    few, many = pairs(min(WARM, batch), cfg, seed=2), pairs(batch, cfg)
    difference = agreement("the first step", ours.run(ours.prepared(few)), peer.run(peer.prepared(few)))
    losses: dict[str, Tensor] = {}

    def step(name: str, side: Any, prepared: Any, precision: str) -> None:
        if name != "open_clip fp32":
            ours.module.precision = "bf16" if precision == "bf16" else "fp32"
        loss = side.run(prepared)
        losses.setdefault(name, loss)

    ready, peer_ready = ours.prepared(many), peer.prepared(many)
    load_bf16(ours, ours.prepared(few))
    sides: Mapping[str, Callable[[], None]] = {
        "mmclip fp32": partial(step, "mmclip fp32", ours, ready, "fp32"),
        "open_clip fp32": partial(step, "open_clip fp32", peer, peer_ready, "fp32"),
        "mmclip bf16": partial(step, "mmclip bf16", ours, ready, "bf16"),
    }
    times = time_sides(sides, repetitions)
    difference = max(difference, agreement("a measured step", losses["mmclip fp32"], losses["open_clip fp32"]))
    rows = time_rows("b32_fp32", times["mmclip fp32"], times["open_clip fp32"], NAME)
    return [*rows, *time_rows("b32_bf16_vs_fp32", times["mmclip bf16"], times["open_clip fp32"], NAME)], difference


def load_bf16(ours: Ours, batch: ImageTextBatch) -> None:
    """Kernels are loaded at their first use; no weight moves, so that the sides stay equal."""
    ours.module.precision = "bf16"
    embedded = ours.module.encode(batch)
    (embedded.image_embed.sum() + embedded.text_embed.sum()).backward()
    ours.module.zero_grad(set_to_none=True)


def agreement(what: str, ours: Tensor, peer: Tensor) -> float:
    """The difference over the peer's norm.

    Raises:
        RuntimeError: it is above the tolerance: the two sides do not do the same work.
    """
    difference = float((ours.double() - peer.double()).norm() / peer.double().norm())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{what}: the two sides differ by {difference:.1e} of the peer's")
    return difference


def text_rows(ours: Ours, peer: Peer, tokens: Tensor, repetitions: int) -> tuple[list[Row], float]:
    """The text tower alone; and how far the embeddings of both sides differ."""
    model: Any = peer.model
    short, lengths = ours.towers.trim(tokens), ours.towers.text_lengths(tokens)
    weight = torch.randn(len(tokens), ours.towers.backbone.text_projection.shape[1])
    with torch.no_grad():
        mine = ours.towers.encode_text(short[:WARM], lengths[:WARM])
        difference = agreement("embeddings of captions", mine, model.encode_text(tokens[:WARM]))

    def forward_backward(module: nn.Module, encode: Callable[[], Tensor]) -> None:
        module.zero_grad(set_to_none=True)
        (encode() * weight).sum().backward()

    sides = {
        "mmclip": partial(forward_backward, ours.towers, partial(ours.towers.encode_text, short, lengths)),
        "open_clip": partial(forward_backward, model, partial(model.encode_text, tokens)),
    }
    times = time_sides(sides, repetitions)
    ours.towers.zero_grad(set_to_none=True)
    return time_rows("text_tower", times["mmclip"], times["open_clip"], NAME), difference


def optimizer_rows(case: str, ours: Ours, peer: Peer, repetitions: int) -> list[Row]:
    """The update alone, with gradients of noise; moments are there from the steps before."""
    for module in (ours.module, peer.model):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter).mul_(1e-3)
    sides = {"mmclip": ours.optimizer.step, "open_clip": peer.optimizer.step}
    times = time_sides(sides, repetitions + 1)
    return time_rows(case, times["mmclip"][1:], times["open_clip"][1:], NAME)


def optimizer_alone_rows(cfg: dict[str, Any], repetitions: int, threads: int) -> tuple[list[Row], float]:
    """The update in processes that do nothing else; and how far the weights that it leaves differ between the sides."""

    def measure(side: str, repetition: int) -> tuple[tuple[float, float], float]:
        return spawn(side, cfg, UPDATES, threads)

    found = interleave({side: partial(measure, side) for side in SIDES}, repetitions)
    norms = {side: torch.tensor([norm for _, norm in runs], dtype=torch.float64) for side, runs in found.items()}
    difference = agreement("weights after the same updates", norms["mmclip"], norms["open_clip"])
    times = {side: [seconds for seconds, _ in runs] for side, runs in found.items()}
    return time_rows("optimizer", times["mmclip"], times["open_clip"], NAME), difference


if __name__ == "__main__":
    main()
