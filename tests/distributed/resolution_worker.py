"""Run under torchrun: a run that changes its picture size, and the gradient of its last step.

Arguments: the run file, the file for the gradients.
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from mmclip.batch import DataPosition
from mmclip.training.progress import Progress
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.parts import take_size_before


def main(run_file: Path, answer: Path) -> None:
    config = load_run_config(run_file)
    accelerator = build_accelerator(config)
    run = assemble(config, accelerator)
    gradients = {}

    def note(*_: object) -> None:
        gradients.update({n: p.grad.clone() for n, p in run.step.module.named_parameters() if p.grad is not None})

    run.step.bare_optimizer.register_step_pre_hook(note)
    progress = Progress()
    for part in run.parts:
        take_size_before(run, part.end_step)
        batches = run.loader.batches(DataPosition(progress.samples_seen))
        while progress.step < part.end_step:
            run.step(next(batches), progress)
            progress = progress.after(config.global_batch_size)
    if accelerator.is_main_process:
        weights = {f"weight.{n}": p.detach().clone() for n, p in run.step.module.named_parameters()}
        save_file({**gradients, **weights}, answer)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
