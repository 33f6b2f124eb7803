"""The update of one trainer's optimizer, in a process that does nothing else.

What a process did before decides what an update costs. AdamW's many passes make temporary tensors; where whole steps have left
the allocator freed memory they get it back, and otherwise the system maps and clears new pages for them at each update.

    python -m measure.optimizer_alone '{"side": "open_clip", "model_cfg": {...}, "updates": 5, "threads": 2}'

prints one line of JSON: `seconds`, CPU and wall of each update, and `norm`, that of all weights after the last one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from measure.timing import timed
from measure.trainers import OPTIMIZER, peer_model, peer_optimizer
from mmclip.objectives.clip import ClipConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.training.module import TrainingModule
from mmclip.training.optim import build_optimizer

SIDES = ("mmclip", "open_clip")
BENCHMARKS = Path(__file__).parent.parent


def alone(side: str, model_cfg: dict[str, Any], updates: int, threads: int) -> dict[str, Any]:
    """Take an update that makes the moments, and time `updates` more; weights and gradients are those of the other side."""
    torch.set_num_threads(threads)
    with torch.device("meta"):  # nothing is allocated that would be freed before the measurement
        towers = TwoTower(model_cfg)
        model = towers.backbone if side == "mmclip" else peer_model(model_cfg, towers.backbone.state_dict())
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for _, parameter in sorted(model.named_parameters()):  # one order of drawing on both sides
        nn.init.normal_(parameter, std=0.02)
        parameter.grad = nn.init.normal_(torch.empty_like(parameter), std=1e-3)
    ours = TrainingModule(towers, ClipConfig().build(), "fp32")
    optimizer = build_optimizer(OPTIMIZER, ours) if side == "mmclip" else peer_optimizer(model)
    step: Callable[[], object] = optimizer.step
    step()
    seconds = [timed(step) for _ in range(updates)]
    with torch.no_grad():
        norm = sum(float(parameter.double().norm() ** 2) for parameter in model.parameters()) ** 0.5
    return {"seconds": seconds, "norm": norm}


def spawn(side: str, model_cfg: dict[str, Any], updates: int, threads: int) -> tuple[tuple[float, float], float]:
    """The medians of CPU and wall seconds of an update in a process of its own, and the norm of the weights behind the last."""
    asked = json.dumps({"side": side, "model_cfg": model_cfg, "updates": updates, "threads": threads})
    command = [sys.executable, "-m", "measure.optimizer_alone", asked]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [BENCHMARKS, *sys.path]))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    cpu, wall = (median(column) for column in zip(*found["seconds"], strict=True))
    print(f"  {side}, in a process of its own: {cpu:.3g} CPU s, {wall:.3g} s", flush=True)
    return (cpu, wall), found["norm"]


if __name__ == "__main__":
    print(json.dumps(alone(**json.loads(sys.argv[1]))))
