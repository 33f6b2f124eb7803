"""`torchrun --max-restarts 1 attempt_worker.py FOLDER RUN_FILE`: the first attempt ends with a dead rank, the second agrees."""

import os
import sys
from pathlib import Path

from mmclip.training.agreement import Agreement
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import load_run_config


def main(folder: Path, run_file: Path) -> None:
    accelerator = build_accelerator(load_run_config(run_file))
    rank, attempt = accelerator.process_index, os.environ["TORCHELASTIC_RESTART_COUNT"]
    agreement = Agreement(accelerator.num_processes)
    assert agreement.any(rank == 1)
    if attempt == "0" and rank == 1:
        os._exit(1)
    assert not agreement.any(False)
    (folder / f"{attempt}-{rank}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
