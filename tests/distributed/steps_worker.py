"""Run under python or torchrun: take three steps of each of several runs and write their losses and norms of gradients.

Arguments: the folder with a run file for each, the file for the answers, flags for every run.
"""

import json
import sys
from pathlib import Path

from mmclip.batch import DataPosition
from mmclip.training.progress import Progress
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config


def main(runs: Path, answers: Path, *flags: str) -> None:
    figures: dict[str, list[list[float]]] = {}
    for path in sorted(runs.glob("*.toml")):
        config = load_run_config(path, flags)
        accelerator = build_accelerator(config)
        run = assemble(config, accelerator)
        progress, batches = Progress(), run.loader.batches(DataPosition(0))
        figures[path.stem] = []
        for _ in range(3):
            report = run.step(next(batches), progress)
            progress = progress.after(config.global_batch_size)
            loss = float(accelerator.reduce(report.loss, "mean"))
            figures[path.stem].append([loss, float(report.grad_norm), float(report.metrics["logit_scale"])])
        run.step.release()
    if accelerator.is_main_process:
        answers.write_text(json.dumps(figures))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
