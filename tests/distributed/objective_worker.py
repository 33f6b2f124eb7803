"""Run under python or torchrun: every objective of the registry through the steps of a run, as its commands build it.

Argument: the folder for the answers. Alone it also asks what needs one process: whether a pass changes state, whether smaller
pieces give the same, and whether a run that is saved and taken up again goes on with the same bits.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from objective_runs import CLASSES, cases
from safetensors.torch import save_file
from torch import Tensor

from mmclip.batch import DataPosition
from mmclip.objectives import ObjectiveContext
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.weights import save_config, save_weights
from mmclip.training.checkpoint.contents import TrainingState, contents
from mmclip.training.checkpoint.files import TensorFile
from mmclip.training.checkpoint.loading import load_checkpoint
from mmclip.training.progress import Progress
from mmclip_launch.run.assembled import Run
from mmclip_launch.run.beginning.assembly import assemble
from mmclip_launch.run.beginning.processes import build_accelerator
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.tables import from_table

STEPS = 3
BATCH = 12
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def config_of(case: dict[str, Any], **more: Any) -> RunConfig:
    """The run of a case."""
    table: dict[str, Any] = {
        "output": "unused",
        "global_batch_size": BATCH,
        "precision": "fp64",
        "device": "cpu",
        "length": {"steps": 10},
        "optimizer": {"lr": 1e-3},
        "model": {"inline": MODEL},
        "data": {"source": {"type": "tars", "shards": "embedded:emoji/unseen-concept-*.tar"}, "workers": 0},
        **case,
        **more,
    }
    if case["objective"]["type"] == "classify":
        table |= {**CLASSES, "data": {**table["data"], **CLASSES["data"]}}
    return from_table(RunConfig, table, "a case")


def steps_of(run: Run, config: RunConfig, first: int, last: int) -> dict[str, Tensor]:
    """What the steps leave: gradients and loss of each, and all state at the end."""
    noted: dict[str, Tensor] = {}
    progress = Progress(first, first * BATCH)
    batches = run.loader.batches(DataPosition(progress.samples_seen))
    for number in range(first, last):

        def note(*_: object, number: int = number) -> None:
            module = run.step.module
            noted.update(
                {f"step {number} {n}": p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
            )

        hook = run.step.bare_optimizer.register_step_pre_hook(note)
        report = run.step(run.step.measured(next(batches)), progress)
        hook.remove()
        for name, figure in {"loss": report.loss, **report.metrics}.items():
            noted[f"step {number} figure {name}"] = run.step.accelerator.reduce(figure.double(), "mean").reshape(1)  # pyright: ignore
        progress = progress.after(config.global_batch_size)
    return noted | state_of(run)


def state_of(run: Run) -> dict[str, Tensor]:
    """Every tensor that a checkpoint keeps."""
    files = contents(run.step.trained, TrainingState(Progress(), "", 1))
    return {
        f"state {file.path} {name}": tensor.detach().clone().contiguous()
        for file in files
        if isinstance(file, TensorFile)
        for name, tensor in file.tensors.items()
    }


def same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits agree; a figure of which there is nothing to tell yet is NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def alone(name: str, case: dict[str, Any], accelerator: Accelerator, folder: Path, unbroken: dict[str, Tensor]) -> None:
    """What one process can be asked."""
    config = config_of(case)
    run = assemble(config, accelerator)
    before = state_of(run)
    batch = run.step.measured(next(run.loader.batches(DataPosition(0))))
    momentum = None if run.step.momentum is None else run.step.momentum(batch, 1)
    teacher = None if run.step.teacher is None else run.step.teacher(batch, 1)
    labels = run.step.module.pair_labels(batch)
    context = ObjectiveContext(0, 0, labels, batch.classes, teacher, momentum=momentum)
    run.step.module.train()(batch, context)
    after = state_of(run)
    assert before.keys() == after.keys(), name
    assert all(same(before[key], after[key]) for key in before), name

    half = assemble(config, accelerator)
    steps_of(half, config, 0, 2)
    saved = folder / f"saved {name}"
    saved.mkdir()
    for file in contents(half.step.trained, TrainingState(Progress(2, 2 * BATCH), "", 1)):
        path = saved / file.path
        path.parent.mkdir(exist_ok=True)
        if isinstance(file, TensorFile):
            save_file({key: value.detach().clone().contiguous() for key, value in file.tensors.items()}, path)
        else:
            path.write_bytes(file.content)
    resumed = assemble(replace(config, seed=config.seed), accelerator)
    with torch.no_grad():
        for tensor in [*resumed.step.module.objective.state_dict().values(), *resumed.step.module.parameters()]:
            tensor.zero_()  # nothing may be right by chance
    load_checkpoint(saved, resumed.step.trained)
    ends = steps_of(resumed, config, 2, STEPS)
    others = [key for key, value in ends.items() if not same(value, unbroken[key])]
    assert not others, f"{name}: {len(others)} tensors are others after a resume, such as {others[:3]}"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, case in cases().items():
        accelerator = build_accelerator(config_of({"objective": {"type": "clip"}}))
        if case["objective"].get("teacher") == "TEACHER":
            case["objective"]["teacher"] = str(folder / "teacher")
            if accelerator.is_main_process and not (folder / "teacher").is_dir():
                torch.manual_seed(7)
                teacher = create(ModelConfig(inline=MODEL), False)
                (folder / "teacher").mkdir()
                save_weights(teacher, folder / "teacher")
                save_config(teacher, folder / "teacher")
            accelerator.wait_for_everyone()
        config = config_of(case)
        accelerator = build_accelerator(config)
        run = assemble(config, accelerator)
        answers = steps_of(run, config, 0, STEPS)
        if accelerator.is_main_process:
            save_file(answers, folder / f"{name}.safetensors")
        run.step.release()
        if accelerator.num_processes == 1:
            pieces = config_of(case, accumulation={"micro_batch_size": 4})
            save_file(
                steps_of(assemble(pieces, accelerator), pieces, 0, STEPS), folder / f"{name} in pieces.safetensors"
            )
            alone(name, case, accelerator, folder, answers)
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
