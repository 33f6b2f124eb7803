"""Run as a program: one optimizer step of a small model, and how far the memory of the process rose above what it began with.

Arguments: samples of the batch, samples of a micro-batch.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives.clip import ClipConfig
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule


def memory_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) / 1024


def batch_of(samples: int) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 49000, (samples, 8), generator=generator)
    tokens[:, 7] = 49407
    return ImageTextBatch(
        images=torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8, generator=generator),
        tokens=tokens,
        keys=torch.arange(samples),
        ids=tuple(map(str, range(samples))),
        position=DataPosition(samples),
    )


def step_of(samples: int, micro: int) -> TrainStep:
    torch.manual_seed(0)
    accumulation = AccumulationConfig(micro_batch_size=micro)
    module = TrainingModule(
        TwoTower(model_cfg_of("nano-vit-32")),
        ClipConfig().build(),
        micro_batches=accumulation.micro_batches(samples, 1),
    )
    settings = OptimizerConfig(lr=1e-3)
    rule = UpdateRule(settings, ScheduleConfig(warmup_samples=0), 100 * samples, samples, seed=0)
    return TrainStep(Accelerator(cpu=True), module, build_optimizer(settings, module), rule, accumulation)


def main(samples: int, micro: int) -> None:
    torch.set_num_threads(1)
    step_of(micro, micro)(batch_of(micro), Progress())  # libraries, threads and moments are there from now on
    batch, step = batch_of(samples), step_of(samples, micro)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # growth into memory that was freed would not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    before = memory_mib("VmRSS")
    report = step(batch, Progress())
    print(
        json.dumps({"mib": memory_mib("VmHWM") - before, "loss": float(report.loss), "norm": float(report.grad_norm)})
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
