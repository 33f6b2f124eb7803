"""The contrastive loss alone, forward and backward, from thousands of pairs to beyond what all logits at once allow.

open_clip's `ClipLoss` runs twice: in fp32 as ours does, and under bf16 autocast as its trainer has it with `amp_bf16`, where
its logits are rounded to bf16.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor

from device.clock import in_turn, peak_gib
from device.notes import Notes
from device.scale import Scale
from mmclip.ops.infonce import infonce
from mmclip.training.precision import Precision, allow_tf32

SCALE = 30.0
MILLISECONDS, PEAK = "milliseconds", "GiB at the peak"


def run(notes: Notes, scale: Scale, device: torch.device) -> None:
    """Each batch: ours, then beside either way of the peer's, until that does not fit."""
    for batch in scale.losses:
        given = inputs(batch, scale.embed, device)
        case = f"infonce, batch {batch}"
        with notes.unless_too_large(f"{case}, mmclip"):
            mine = partial(once, lambda *inputs: infonce(*inputs).loss, given)
            allow_tf32("fp32")
            mine()
            notes.figure(f"{case}, mmclip", PEAK, peak_gib(mine, device))
            notes.figure(f"{case}, mmclip", MILLISECONDS, 1000 * min(in_turn({"": mine}, device, 2, 0)[""]))
            casts: tuple[tuple[Precision, Any], ...] = (
                ("fp32", nullcontext),
                ("bf16", partial(torch.autocast, device.type, torch.bfloat16)),
            )
            for name, cast in casts:
                allow_tf32(name)
                beside(notes, scale, f"{case}, beside {name}", mine, cast, given, device)


def beside(
    notes: Notes,
    scale: Scale,
    case: str,
    mine: Callable[[], None],
    cast: Callable[[], AbstractContextManager[Any]],
    given: tuple[Tensor, ...],
    device: torch.device,
) -> None:
    """The rows of one way of the peer's."""

    def loss(*inputs: Tensor) -> Tensor:
        with cast():
            return theirs(*inputs)

    theirs = ClipLoss()
    with notes.unless_too_large(case):
        run = partial(once, loss, given)
        times = in_turn({"mmclip": mine, "open_clip": run}, device, scale.repetitions)
        values = {side: [1000 * seconds for seconds in found] for side, found in times.items()}
        notes.row(case, MILLISECONDS, values["mmclip"], values["open_clip"], higher_is_better=False)
        theirs.labels.clear()  # made anew within the measured call, as ours makes what it needs
        peaks = peak_gib(mine, device), peak_gib(run, device)
        notes.row(case, PEAK, [peaks[0]], [peaks[1]], higher_is_better=False)


def inputs(batch: int, embed: int, device: torch.device) -> tuple[Tensor, ...]:
    """Embeddings, a pair more alike than the rest, and the scale."""
    torch.manual_seed(0)
    image = F.normalize(torch.randn(batch, embed, device=device), dim=1)
    text = F.normalize(0.2 * image + F.normalize(torch.randn(batch, embed, device=device), dim=1), dim=1)
    return tuple(t.requires_grad_() for t in (image, text, torch.tensor([SCALE], device=device)))


def once(loss: Callable[..., Tensor], given: tuple[Tensor, ...]) -> None:
    """Forward and backward."""
    torch.autograd.grad(loss(*given), given)
