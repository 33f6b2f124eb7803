"""Run under python: every loss and objective on the slices of 1, 2 and 3 gloo ranks, and in one process without a group.

All processes are forked from this one, so torch is imported once. Argument: the folder for the answers, of which each number
of ranks writes one file; 0 is the one process.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from objective_cases import answers_of
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor

from mmclip.batch import PairLabels
from mmclip.ops.distill import distill
from mmclip.ops.gather import rank, world_size
from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid

ROWS, EMBED = 12, 5
BY_PRODUCTS = ("top_1", "positive_similarity", "negative_similarity")
FLAGS = {"default": {}, "local": {"local_loss": True}, "grad": {"gather_with_grad": True}}
FLAGS["both"] = FLAGS["local"] | FLAGS["grad"]
Given = dict[str, Tensor]


def given(texts: int) -> Given:
    """The joined batch; labels are spread as unevenly as they can be.

    Caption 0 belongs to all of the first four images (all of rank 0 of three), caption 7 to two in different thirds, and no
    text belongs to the last image where images and texts are not equally many.
    """
    generator = torch.Generator().manual_seed(texts)
    rows = {"image": ROWS, "text": texts, "teacher_image": ROWS, "teacher_text": texts}
    found = {
        name: F.normalize(torch.randn(n, EMBED, dtype=torch.float64, generator=generator), dim=1)
        for name, n in rows.items()
    }
    captions = torch.tensor([0, 0, 0, 0, 7, 1, 2, 3, 4, 7, 5, 6])
    pictures = torch.arange(100, 100 + ROWS)
    pictures[11] = pictures[2]
    found["image_labels"] = torch.stack([captions, pictures], 1)
    found["text_labels"] = found["image_labels"].repeat(texts // ROWS, 1)
    if texts != ROWS:
        found["image_labels"][11] = torch.tensor([50, 51])
        found["text_labels"][5] = torch.tensor([60, 61])
    return found


def slices(joined: Given) -> Given:
    """This rank's rows of everything."""
    return {name: rows.chunk(world_size())[rank()].clone() for name, rows in joined.items()}


def averaged(value: Tensor) -> Tensor:
    """The mean over ranks, as DDP takes it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def cases() -> Iterator[tuple[str, Callable[[Given, Tensor, Tensor], Any]]]:
    """Each loss in each way, as a function of slices, scale and bias."""
    for implementation in ("reference", "tiled"):
        options: Any = {"implementation": implementation, "tile": 5}
        for kind in ("diagonal", "positive", "ignored", "several"):
            for smoothing in (0.0, 0.2):
                for loss in ("infonce", "sigmoid"):
                    name = f"{implementation} {loss} {kind} {smoothing}"
                    yield name, partial(call, loss, kind, options | {"label_smoothing": smoothing})
        yield f"{implementation} distill diagonal", partial(call_distill, options)
        yield f"{implementation} distill several", partial(call_distill, options)


def call(loss: str, kind: str, options: Any, own: Given, scale: Tensor, bias: Tensor) -> Any:
    if kind != "diagonal":
        labels = PairLabels(own["image_labels"], own["text_labels"])
        options = options | {"labels": labels, "duplicates": "ignored" if kind == "ignored" else "positive"}
    if loss == "infonce":
        return infonce(own["image"], own["text"], scale, **options)
    return sigmoid(own["image"], own["text"], scale, bias, **options)


def call_distill(options: Any, own: Given, scale: Tensor, bias: Tensor) -> Any:
    teacher = own["teacher_image"], own["teacher_text"], torch.tensor(20.0, dtype=torch.float64)
    return distill(own["image"], own["text"], scale, *teacher, **options)


def outcome(name: str, run: Callable[[Given, Tensor, Tensor], Any]) -> Given:
    """Value, by-products and gradients of one case, put together from all ranks."""
    own = slices(given(2 * ROWS if "several" in name else ROWS))
    inputs = own["image"], own["text"], torch.tensor([14.3]).double(), torch.tensor([-2.0]).double()
    for tensor in inputs:
        tensor.requires_grad_()
    found = run(own, *inputs[2:])
    loss = found if isinstance(found, Tensor) else found.loss
    loss.backward()
    answers = {"loss": averaged(loss.detach().clone())}
    if not isinstance(found, Tensor):
        answers |= {field: averaged(getattr(found, field).clone()) for field in BY_PRODUCTS}
    for label, tensor in zip(("scale", "bias"), inputs[2:], strict=True):
        answers[label] = averaged(torch.zeros(1).double() if tensor.grad is None else tensor.grad)
    for label, tensor in zip(("image", "text"), inputs, strict=False):
        # Of the gradients that DDP averages, each rank's rows hold their own part alone.
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.grad) if world_size() > 1 else parts[0].copy_(tensor.grad)
        answers[label] = torch.cat(parts) / world_size()
    return {f"{name} / {label}": value for label, value in answers.items()}


def peers_flags() -> Given:
    """The averaged gradient of two linear towers under each of the peer's settings, and under ours."""
    joined = given(ROWS)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(2, EMBED, EMBED, dtype=torch.float64, generator=generator)
    answers = {}
    for name in (*FLAGS, "mmclip"):
        towers = weights.clone().requires_grad_()
        scale = torch.tensor([30.0], dtype=torch.float64, requires_grad=True)
        own = slices(joined)
        image, text = (
            F.normalize(own[side] @ tower, dim=1) for side, tower in zip(("image", "text"), towers, strict=True)
        )
        if name == "mmclip":
            loss = infonce(image, text, scale).loss
        else:
            loss = ClipLoss(**FLAGS[name], rank=rank(), world_size=world_size())(image, text, scale)
        loss.backward()
        assert towers.grad is not None
        assert scale.grad is not None
        answers |= {f"flags / {name}": averaged(towers.grad), f"scale / {name}": averaged(scale.grad)}
    return answers


def work(number: int, ranks: int, folder: Path) -> None:
    """One process of a group of `ranks`; none is made for 0."""
    torch.set_num_threads(1)
    if ranks:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store-{ranks}", rank=number, world_size=ranks)
    answers = {}
    for name, run in cases():
        answers |= outcome(name, run)
    answers |= peers_flags() | answers_of()
    if number == 0:
        save_file({name: value.contiguous() for name, value in answers.items()}, folder / f"{ranks}.safetensors")
    if ranks:
        dist.barrier()
        dist.destroy_process_group()


def main(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    for ranks in (0, 1, 2, 3):
        processes = [context.Process(target=work, args=(number, ranks, folder)) for number in range(max(ranks, 1))]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"{ranks} ranks: exit codes {[process.exitcode for process in processes]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
