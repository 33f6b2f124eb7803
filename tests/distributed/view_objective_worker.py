"""Run under python: objectives over views, two steps each, on the slices of 1, 2 and 3 gloo ranks and in one process.

All processes are forked from this one, so torch is imported once. Argument: the folder for the answers, of which each number
of ranks writes one file; 0 is the one process without a process group.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.objectives import (
    ByolConfig,
    DinoConfig,
    MaskedConfig,
    ModelShape,
    ObjectiveContext,
    SimsiamConfig,
    SwavConfig,
    VicregConfig,
)
from mmclip.ops.gather import all_gather, rank, world_size

ROWS, WIDTH = 12, 6
SHAPE = ModelShape(embed=4, pooled=WIDTH, image_size=(12, 8), patch_size=(4, 2))
PATCHES = 12
CASES: dict[str, Any] = {
    "byol": ByolConfig(hidden=9, out=5),
    "byol with batch norm": ByolConfig(hidden=9, out=5, norm="batch"),
    "simsiam": SimsiamConfig(hidden=9, out=5, bottleneck=3),
    "simsiam with batch norm": SimsiamConfig(hidden=9, out=5, bottleneck=3, norm="batch"),
    "vicreg": VicregConfig(hidden=9, out=5),
    "vicreg with batch norm": VicregConfig(hidden=9, out=5, norm="batch"),
    "swav": SwavConfig(hidden=9, out=5, prototypes=7, local_views=2),
    "swav with a queue": SwavConfig(hidden=9, out=5, prototypes=7, local_views=0, queue_size=16),
    "dino": DinoConfig(hidden=9, bottleneck=5, prototypes=7, local_views=2),
    "masked": MaskedConfig(width=8, depth=1),
    "masked, noise": MaskedConfig(width=8, depth=1, corruption="noise"),
    "masked, teacher's tokens": MaskedConfig(width=8, depth=1, target="teacher"),
}
Named = dict[str, list[Tensor]]


def drawn(objective: Any, names: tuple[str, ...], seed: int) -> Named:
    """Of the joined batch: for each view its copies, features of each patch."""
    generator = torch.Generator().manual_seed(seed)

    def copies(count: int) -> list[Tensor]:
        return [torch.randn(ROWS, PATCHES, WIDTH, dtype=torch.float64, generator=generator) for _ in range(count)]

    return {need.name: copies(need.copies) for need in objective.needs.views if need.name in names}


def own(rows: Tensor) -> Tensor:
    """This rank's slice."""
    return rows.chunk(world_size())[rank()].clone()


def output(objective: Any, tokens: Named, masked: bool) -> TowerOutput:
    """What a tower makes of them: pooled features, tokens, and of masked views the tokens of a quarter."""
    kept = torch.rand(ROWS, PATCHES, generator=torch.Generator().manual_seed(5)).argsort(1)[:, :3].sort(1).values
    views = {}
    for need in objective.needs.views:
        hides = masked and need.masked > 0
        chosen = own(kept)[:, :, None].expand(-1, -1, WIDTH)
        views[need.name] = tuple(
            ViewOutput(
                pooled=copy.mean(1),
                tokens=(copy.gather(1, chosen) if hides else copy) if need.tokens else None,
                kept=own(kept) if hides else None,
            )
            for copy in tokens.get(need.name, [])
        )
    nothing = torch.zeros(ROWS // world_size(), 0, dtype=torch.float64)
    scale = torch.ones(1, dtype=torch.float64)
    return TowerOutput(image_embed=nothing, text_embed=nothing, logit_scale=scale, logit_bias=None, views=views)


def averaged(value: Tensor) -> Tensor:
    """The mean over ranks, as DDP takes it."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def step(objective: Any, number: int) -> Iterator[tuple[str, Tensor]]:
    """One optimizer step; every figure, gradient and state that it leaves."""
    names = tuple(need.name for need in objective.needs.views)
    taught_names = () if objective.needs.momentum is None else objective.needs.momentum.views
    tokens = {name: [own(copy) for copy in copies] for name, copies in drawn(objective, names, number).items()}
    taught = {name: [own(c) for c in copies] for name, copies in drawn(objective, taught_names, 50 + number).items()}
    inputs = [copy.requires_grad_() for copies in tokens.values() for copy in copies]
    momentum = output(objective, taught, masked=False) if taught else None
    outputs = output(objective, tokens, masked=True)
    pixels = own(torch.randn(ROWS, 3, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(number)))
    outputs = replace(outputs, local=objective.local(outputs, dict.fromkeys(names, (pixels,)), momentum))
    context = ObjectiveContext(step=number, samples_seen=ROWS * number, share=0.3 + 0.1 * number, momentum=momentum)
    found = objective(outputs, context)
    found.loss.backward()
    yield "loss", averaged(found.loss)
    yield from ((f"report {name}", averaged(figure)) for name, figure in found.report.items())
    # Of the gradients that DDP averages, each rank's rows hold their own part alone.
    yield from ((f"input {i}", all_gather(tensor.grad) / world_size()) for i, tensor in enumerate(inputs))
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            gradient = averaged(weight.grad)
            yield f"gradient {name}", gradient
            with torch.no_grad():
                weight.sub_(0.1 * gradient)
            weight.grad = None
    objective.on_optimizer_step(found.staged, context, torch.tensor(0.0))
    yield from ((f"state {name}", value.clone()) for name, value in objective.state_dict().items())


def work(number: int, ranks: int, folder: Path) -> None:
    """One process of a group of `ranks`; none is made for 0."""
    torch.set_num_threads(1)
    if ranks:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store-{ranks}", rank=number, world_size=ranks)
    answers = {}
    for case, config in CASES.items():
        torch.manual_seed(0)
        objective = config.build(SHAPE).double()
        for count in range(2):
            answers |= {f"{case} / step {count} / {name}": value for name, value in step(objective, count)}
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
