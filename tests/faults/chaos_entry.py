"""What the trainers of the chaos runner run: `mmclip_launch.train`, with three things made worse from outside.

`CHAOS_PACE_SECONDS` slows each step, so that a fault comes where it is meant to. `CHAOS_NAN` is "STEP:RANK,...": at these steps
these ranks' towers give NaN. `CHAOS_CLOCK` names a file: so many seconds is this process's clock wrong.
"""

import os
import sys
import time
from pathlib import Path

import torch

from mmclip.batch import ImageTextBatch, StepReport, TowerOutput
from mmclip.training.progress import Progress
from mmclip.training.step import TrainStep
from mmclip_launch.cli import run_verb
from mmclip_launch.train import main

RANK = os.environ.get("RANK", "0")
BAD_STEPS = {
    int(step)
    for step, _, rank in (word.partition(":") for word in os.environ["CHAOS_NAN"].split(",") if word)
    if rank == RANK
}
PACE_SECONDS = float(os.environ["CHAOS_PACE_SECONDS"])
CLOCK = Path(os.environ["CHAOS_CLOCK"])
stepped, true_time = TrainStep.__call__, time.time


def spoil(module: object, inputs: object, output: TowerOutput) -> TowerOutput:
    return TowerOutput(output.image_embed, output.text_embed * torch.nan, output.logit_scale, output.logit_bias)


def step(self: TrainStep, batch: ImageTextBatch, progress: Progress) -> StepReport:
    handle = self.module.towers.register_forward_hook(spoil) if progress.step + 1 in BAD_STEPS else None
    report = stepped(self, batch, progress)
    if handle is not None:
        handle.remove()
    time.sleep(PACE_SECONDS)
    return report


def wrong_time() -> float:
    return true_time() + float(CLOCK.read_text() or 0)


if __name__ == "__main__":
    TrainStep.__call__ = step
    time.time = wrong_time
    sys.exit(run_verb(main, sys.argv[1:]))
