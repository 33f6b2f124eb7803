"""Batches far beyond memory: the first model's step with exact accumulation, by samples a second and memory."""

from functools import partial

import torch
from measure.captions import Pairs, pairs
from measure.trainers import Ours

from device.clock import in_turn, peak_gib
from device.notes import Notes
from device.scale import Scale
from mmclip.training.accumulate import AccumulationConfig


def run(notes: Notes, scale: Scale, device: torch.device) -> None:
    """From the smallest on; what a micro-batch takes stays, the pictures' bytes and the embeddings grow."""
    model = scale.models[0]
    cfg = model.cfg()
    few = pairs(scale.micro, cfg)
    for batch in scale.large:
        case = f"step {model.name}, batch {batch} by {scale.micro}, bf16"
        with notes.unless_too_large(case):
            ours = Ours(cfg, device, "bf16", accumulation=AccumulationConfig(micro_batch_size=scale.micro), batch=batch)
            step = partial(ours.run, ours.prepared(repeated(few, batch // scale.micro)))
            notes.figure(case, "GiB above the state and the batch, at the peak", peak_gib(step, device))
            (spent,) = in_turn({"step": step}, device, 1, warm_ups=0)["step"]
            notes.figure(case, "samples/s", batch / spent)


def repeated(few: Pairs, times: int) -> Pairs:
    """The same pairs several times over: their number counts, and noise of this size takes long to draw."""
    return Pairs(few.pixels.repeat(times, 1, 1, 1), few.tokens.repeat(times, 1))
