"""What the device gives at best: matrix products, copies within its memory and copies to it."""

from collections.abc import Callable
from functools import partial

import torch

from device.clock import in_turn
from device.notes import Notes
from device.scale import Scale

ROUNDS = 5
KINDS = (("bf16", torch.bfloat16, False), ("tf32", torch.float32, True), ("fp32", torch.float32, False))
"""Name, type of the matrices, and whether TF32 is allowed."""


def run(notes: Notes, scale: Scale, device: torch.device) -> None:
    """Products of square matrices, a copy, and a copy from pinned memory."""
    for name, dtype, tf32 in KINDS:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        notes.figure(f"GEMM {name}, {scale.gemm}", "TFLOP/s", product(scale.gemm, dtype, device) / 1e12)
    torch.backends.cuda.matmul.allow_tf32 = False
    count = scale.copy_mib * 2**20
    source, host = (
        torch.zeros(count, dtype=torch.uint8, device=where, pin_memory=pinned)
        for where, pinned in ((device, False), (torch.device("cpu"), device.type == "cuda"))
    )
    target = torch.empty_like(source)
    inside, across = (count / fastest(partial(target.copy_, given), device) / 1e9 for given in (source, host))
    notes.figure("copy on the device", "GB/s read and written", 2 * inside)
    notes.figure("copy from pinned memory", "GB/s", across)


def product(side: int, dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a square product."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / fastest(partial(torch.mm, left, right, out=out), device)


def fastest(run: Callable[[], object], device: torch.device) -> float:
    """Seconds: a ceiling is the best of some."""
    return min(in_turn({"run": run}, device, ROUNDS, warm_ups=2)["run"])
