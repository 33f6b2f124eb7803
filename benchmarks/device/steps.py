"""Whole optimizer steps in bf16, eager and compiled; batches lie on the device, so no loader is in these figures."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure.captions import pairs
from measure.trainers import Ours, Peer

from device.clock import in_turn, peak_gib
from device.notes import Notes
from device.scale import Model, Scale
from mmclip.towers.settings import TowersConfig

SAMPLES, WARM_UP = "samples/s", "seconds of the first rounds, compiling included"


def run_eager(notes: Notes, scale: Scale, device: torch.device) -> None:
    """All models as they are."""
    for model in scale.models:
        measure(notes, scale, model, device, compiled=False)


def run_compiled(place: int, notes: Notes, scale: Scale, device: torch.device) -> None:
    """One model compiled: blocks by us, the whole by open_clip's `--torchcompile`."""
    measure(notes, scale, scale.models[min(place, len(scale.models) - 1)], device, compiled=True)


def measure(notes: Notes, scale: Scale, model: Model, device: torch.device, compiled: bool) -> None:
    """Both sides on one batch, ours first, so that a section cut off has it."""
    case = f"step {model.name}, batch {model.batch}, bf16, {'compiled' if compiled else 'eager'}"
    cfg = model.cfg()
    batch = pairs(model.batch, cfg)
    settings = TowersConfig(compile=compiled, compile_backend=scale.compile_backend)
    with notes.unless_too_large(case):
        ours = Ours(cfg, device, "bf16", settings=settings, batch=model.batch)
        mine = partial(ours.run, ours.prepared(batch), scale.steps)
        began = first_steps(notes, f"{case}, mmclip", mine, device)
        rate = samples_of(model.batch, scale, in_turn({"mmclip": mine}, device, 1, warm_ups=0)["mmclip"])[0]
        notes.figure(f"{case}, mmclip", SAMPLES, rate)
        notes.figure(f"{case}, mmclip", "nominal TFLOP/s (77 tokens a caption)", rate * model.gigaflops / 1000)
        peer = Peer(
            cfg,
            ours.towers.backbone.state_dict(),
            device,
            "bf16",
            compile_backend=scale.compile_backend if compiled else None,
        )
        theirs = partial(peer.run, peer.prepared(batch), scale.steps)
        peer_began = first_steps(notes, f"{case}, open_clip", theirs, device)
        if compiled:
            notes.row(case, WARM_UP, [began], [peer_began], higher_is_better=False)
        times = in_turn({"mmclip": mine, "open_clip": theirs}, device, scale.repetitions, warm_ups=0)
        rates = {side: samples_of(model.batch, scale, found) for side, found in times.items()}
        notes.row(case, SAMPLES, rates["mmclip"], rates["open_clip"], higher_is_better=True)
        peaks = [[peak_gib(side, device)] for side in (mine, theirs)]
        notes.row(case, "GiB above the state, at the peak", peaks[0], peaks[1], higher_is_better=False)


def first_steps(notes: Notes, case: str, steps: Callable[[], Any], device: torch.device) -> float:
    """Seconds of two measurements' worth of steps that nothing has been loaded for."""
    started = time.perf_counter()
    for _ in range(2):
        float(steps())  # waits for the device
    spent = time.perf_counter() - started
    notes.figure(case, WARM_UP, spent)
    return spent


def samples_of(batch: int, scale: Scale, times: list[float]) -> list[float]:
    return [batch * scale.steps / seconds for seconds in times]
