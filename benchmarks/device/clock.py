"""Time and memory of work on a device: CUDA events where there are some, the clock of the machine elsewhere."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from measure.interleave import interleave
from measure.memory import peak_growth


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """From the first kernel of `run` to the end of its last one."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def in_turn(
    sides: Mapping[str, Callable[[], object]], device: torch.device, repetitions: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side, A B A B, after unmeasured rounds."""
    timers = {name: partial(_timed, run, device) for name, run in sides.items()}
    return {name: found[warm_ups:] for name, found in interleave(timers, warm_ups + repetitions).items()}


def _timed(run: Callable[[], object], device: torch.device, repetition: int) -> float:
    return seconds(run, device)


def peak_gib(run: Callable[[], object], device: torch.device) -> float:
    """GiB by which allocated memory exceeds, at its peak inside `run`, what was allocated before."""
    if device.type != "cuda":
        return max(1, peak_growth(run)) / 2**30
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return max(1, torch.cuda.max_memory_allocated() - before) / 2**30
