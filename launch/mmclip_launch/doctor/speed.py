"""The fastest matrix product that this machine shows in a moment: what a training step is measured against."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmclip_launch.doctor.finding import Finding

if TYPE_CHECKING:
    import torch

SECONDS_EACH = 0.3
"""Time for each precision; all of them stay within one or two seconds."""
LARGEST = 8192
BUSY = "best of a moment, on a machine that may be busy"


def speed() -> Iterator[Finding]:
    """Peaks of the CPU and of the accelerator, if there is one."""
    import torch

    cpu = torch.device("cpu")
    fp32, bf16 = (peak(cpu, dtype) for dtype in (torch.float32, torch.bfloat16))
    yield Finding(name="cpu fp32", value=f"{flops_text(fp32)} on {torch.get_num_threads()} threads ({BUSY})")
    yield bf16_speed_finding(fp32, bf16)
    if torch.accelerator.is_available() and (device := torch.accelerator.current_accelerator()) is not None:
        for name, measure in accelerator_measures(device).items():
            yield Finding(name=f"{device.type} {name}", value=f"{flops_text(measure())} ({BUSY})")


def accelerator_measures(device: "torch.device") -> dict[str, Callable[[], float]]:
    """By name of the precision, a function that measures it; TF32 is CUDA's alone."""
    import torch

    measures = {
        "bf16": lambda: peak(device, torch.bfloat16),
        "fp16": lambda: peak(device, torch.float16),
        "fp32": lambda: peak(device, torch.float32),
    }
    if device.type == "cuda":
        measures["tf32"] = lambda: _with_tf32(device)
    return measures


def bf16_speed_finding(fp32: float, bf16: float) -> Finding:
    """Operations a second of each on the CPU: the default precision should not be the slower one."""
    value = f"{flops_text(bf16)}, {bf16 / fp32:.1f} times fp32"
    if bf16 < fp32:
        fix = "where training runs on this CPU: precision fp32"
        return Finding(name="cpu bf16", value=value, state="note", fix=fix)
    return Finding(name="cpu bf16", value=value)


def peak(device: "torch.device", dtype: "torch.dtype", seconds: float = SECONDS_EACH) -> float:
    """Floating-point operations a second of the best square product: 2 n^3, n doubled until one takes a while."""
    import torch

    def synchronise() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    def timed(n: int) -> Callable[[], float]:
        left, right = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)

        def run() -> float:
            synchronise()
            started = time.perf_counter()
            torch.matmul(left, right, out=out)
            synchronise()
            return 2 * n**3 / (time.perf_counter() - started)

        return run

    return best_rate(timed, seconds)


def best_rate(
    prepare: Callable[[int], Callable[[], float]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best figure of repeated runs within about `seconds`, of the largest size of which several fit in."""
    started, n, best = clock(), 256, 0.0
    run = prepare(n)
    while True:
        before = clock()
        best = max(best, run())
        now = clock()
        if now - started >= seconds:
            return best
        # Twice the side is eight times the work: grow while five such runs still fit into what is left.
        if n < LARGEST and 40 * (now - before) < seconds - (now - started):
            n *= 2
            run = prepare(n)


def flops_text(rate: float) -> str:
    """`183 GFLOP/s`, `1.2 TFLOP/s`."""
    return f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.0f} GFLOP/s"


def _with_tf32(device: "torch.device") -> float:
    import torch

    with _restored_precision():
        torch.set_float32_matmul_precision("high")
        return peak(device, torch.float32)


@contextmanager
def _restored_precision() -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
