"""What the loss of one batch costs in memory and time, forward and backward: mmclip beside open_clip, on one core.

    make bench NAME=loss                                                          # benchmarks/results/loss.json
    .venv/bin/python benchmarks/loss.py --repetitions 1 --batch 1024 --output /tmp/loss.json     # a look, under a minute

Equal on both sides: the embeddings (4,096 pairs of 512 numbers, fp32, L2-normalised, a pair more alike than the rest), the
scale (30; 10 and a bias of -10 for the sigmoid loss), one thread, the interpreter and its torch. Both are called as their
trainers call them in one process, mmclip with its defaults: `infonce` and `sigmoid`, open_clip `ClipLoss` and `SigLipLoss`.
Before anything is measured, losses and all gradients of both sides are compared: they agree to 1e-6 (norm of the difference
over norm).

- peak memory: growth of the resident memory of a fresh process from before the forward to its highest, inputs not counted,
  gradients counted (16 MiB of it on both sides). What the process loads at its first call is loaded by a small batch before.
- CPU seconds, wall seconds: of one forward and backward, A B A B in one process, after one unmeasured pair
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; children inherit it

import torch
import torch.nn.functional as F
from measure.document import finish
from measure.interleave import interleave
from measure.memory import peak_growth
from measure.ratios import Row, compare
from torch import Tensor

from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid

BATCH, EMBED, SMALL = 4096, 512, 256
PARAMETERS = {"infonce": (30.0,), "sigmoid": (10.0, -10.0)}
CASES = {"infonce": "infonce", "sigmoid": "siglip"}
MEBIBYTE = 2**20

Loss = Callable[..., Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="The contrastive losses, mmclip beside open_clip.")
    parser.add_argument("--repetitions", type=int, default=7, help="pairs of measurements of each row (default: 7)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"pairs in the batch (default: {BATCH})")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/loss.json)")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "LOSS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(peak_of(*options.child, options.batch)))
        return
    rows, agreement = [], {}
    for loss, case in CASES.items():
        agreement[case] = check_equal(loss, options.batch)
        rows += memory_rows(loss, case, options)
        rows += time_rows(loss, case, options)
    equal = {"batch": options.batch, "embed": EMBED, "dtype": "float32", "threads": 1, "largest_difference": agreement}
    versions = {"peer open_clip_torch": version("open_clip_torch")}
    finish("loss", rows, versions, {"equal": equal, "pairs": options.repetitions}, options.output)


def losses(side: str) -> dict[str, Loss]:
    """The two losses of one side, on the same arguments."""
    if side == "mmclip":
        return {name: lambda *inputs, loss=loss: loss(*inputs).loss for name, loss in OURS.items()}
    from open_clip.loss import ClipLoss, SigLipLoss

    import mmclip  # noqa: F401  (declares the operators that torchvision may lack)

    return {"infonce": ClipLoss(), "sigmoid": SigLipLoss()}


OURS = {"infonce": infonce, "sigmoid": sigmoid}


def inputs(loss: str, batch: int) -> tuple[Tensor, ...]:
    """Embeddings, scale and, for the sigmoid loss, bias."""
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(batch, EMBED, generator=generator), dim=1)
    text = F.normalize(0.2 * image + F.normalize(torch.randn(batch, EMBED, generator=generator), dim=1), dim=1)
    return tuple(t.requires_grad_() for t in (image, text, *(torch.tensor([p]) for p in PARAMETERS[loss])))


def once(loss: Loss, given: tuple[Tensor, ...]) -> None:
    """Forward and backward."""
    loss(*given).backward()


def peak_of(side: str, name: str, batch: int) -> int:
    """Bytes of one forward and backward in this process, which does nothing else."""
    loss = losses(side)[name]
    once(loss, inputs(name, SMALL))
    return peak_growth(partial(once, loss, inputs(name, batch)))


def check_equal(name: str, batch: int) -> float:
    """The largest difference of losses and gradients, its norm over that of the peer's.

    Raises:
        RuntimeError: it is above 1e-6: the two sides do not do the same work.
    """
    given, found = inputs(name, batch), []
    for side in ("mmclip", "open_clip"):
        loss = losses(side)[name](*given)
        found.append([loss.detach(), *torch.autograd.grad(loss, given)])
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))
    if difference > 1e-6:
        raise RuntimeError(f"{name}: losses or gradients differ by {difference:.1e} of their norm")
    return difference


def memory_rows(name: str, case: str, options: argparse.Namespace) -> list[Row]:
    """Peak memory, each measurement in a process of its own."""

    def measure(side: str, repetition: int) -> float:
        command = [sys.executable, __file__, "--child", side, name, "--batch", str(options.batch)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / MEBIBYTE

    pairs = interleave({side: partial(measure, side) for side in ("mmclip", "open_clip")}, options.repetitions)
    return [row(f"{case}_memory", "peak memory (MiB)", pairs)]


def time_rows(name: str, case: str, options: argparse.Namespace) -> list[Row]:
    """CPU and wall time in this process."""
    given = inputs(name, options.batch)

    def measure(loss: Loss, repetition: int) -> tuple[float, float]:
        for tensor in given:
            tensor.grad = None
        started = time.process_time(), time.perf_counter()
        once(loss, given)
        return time.process_time() - started[0], time.perf_counter() - started[1]

    sides = {side: partial(measure, losses(side)[name]) for side in ("mmclip", "open_clip")}
    pairs = {side: found[1:] for side, found in interleave(sides, options.repetitions + 1).items()}
    rows = []
    for number, metric in enumerate(("CPU seconds", "wall seconds")):
        values = {side: [times[number] for times in found] for side, found in pairs.items()}
        rows.append(row(f"{case}_time", metric, values))
    return rows


def row(case: str, metric: str, pairs: dict[str, list[float]]) -> Row:
    peer = f"open_clip_torch {version('open_clip_torch')}"
    found = compare(case, metric, pairs["mmclip"], pairs["open_clip"], peer, higher_is_better=False)
    print(f"{case}, {metric}: {found.ours:.3g} beside {found.peer:.3g}, ratio {found.ratio:.2f}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
