"""Training state on disk: weights in open_clip's layout, the rest in safetensors and JSON, sealed by a manifest."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmclip.config import config
from mmclip.envelope import DamagedFolderError, publish, verify
from mmclip.errors import UserError
from mmclip.towers.class_head import load_head
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE, fill, save_tensors, save_weights
from mmclip.training.ema import WeightAverage
from mmclip.training.module import TrainingModule
from mmclip.training.progress import Progress

RAW_HEAD_FILE = "raw_class_head.safetensors"
RESULT_FILE = "result.json"
"""In a run folder whose result is not its newest checkpoint: which folder is, and why."""
STATE_FILE, OPTIMIZER_FILE, OBJECTIVE_FILE = "training_state.json", "optimizer.safetensors", "objective.safetensors"
ADAPTER_FOLDER = "adapter"
"""In checkpoints of a run that trains adapters: these in peft's layout, and the weights beneath them."""


@config
class CheckpointConfig:
    """When training state is saved, and how much of it stays."""

    every_steps: int | None = None
    """Save each time so many steps are done; by default ten times a run. The last step is always saved."""
    every_minutes: float | None = None
    """Save, besides, when so many minutes have passed since the last save began."""
    keep: int = 3
    """Newest checkpoints that stay on disk; an older one goes only when the newer ones verify."""

    def __post_init__(self) -> None:
        for name, value in (("every_steps", self.every_steps), ("keep", self.keep)):
            if value is not None and value < 1:
                raise UserError(f"checkpoint.{name}={value}: expected at least 1")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise UserError(f"checkpoint.every_minutes={self.every_minutes}: expected more than 0")


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds besides weights and optimizer moments."""

    progress: Progress
    data_fingerprint: str
    world_size: int


@dataclass(frozen=True)
class Trained:
    """Everything of a run that its steps change."""

    module: TrainingModule
    optimizer: torch.optim.Optimizer
    ema: WeightAverage | None = None
    scaler: torch.amp.GradScaler | None = None

    @property
    def judged(self) -> TwoTower:
        """The towers that evaluation, export and `load` take: the average where there is one."""
        return self.module.towers if self.ema is None else self.ema.towers

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained in place of weights."""
        return self.module.towers.settings.adapters is not None

    @property
    def average(self) -> Any | None:
        """The backbone of the average, where there is one."""
        return None if self.ema is None else self.ema.towers.backbone


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(folder: Path, trained: Trained, state: TrainingState) -> None:
    """Write everything that a resume needs; a kill at any moment leaves no half of it under `folder`'s name.

    Where weights are averaged, the average is what other programs find, and the raw weights stand beside it.
    """

    def write(temporary: Path) -> None:
        save_weights(trained.judged, temporary)
        if trained.ema is not None:
            save_tensors(trained.module.towers, temporary / RAW_WEIGHTS_FILE)
            if trained.module.towers.class_head is not None:
                save_file(trained.module.towers.class_head.state_dict(), temporary / RAW_HEAD_FILE)
        if trained.has_adapters:
            from mmclip.towers.lora import save_adapters  # imports open_clip, as below

            save_adapters(trained.module.towers.backbone, trained.average, temporary / ADAPTER_FOLDER)
        save_file(_optimizer_tensors(trained.module, trained.optimizer), temporary / OPTIMIZER_FILE)
        objective = trained.module.objective.state_dict()
        if objective:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in objective.items()}, temporary / OBJECTIVE_FILE
            )
        versions = {"torch": str(torch.__version__)}
        table: dict[str, Any] = {**asdict(state), "versions": versions}
        if trained.scaler is not None and trained.scaler.is_enabled():
            table["scaler"] = trained.scaler.state_dict()
        (temporary / STATE_FILE).write_text(json.dumps(table, indent=1) + "\n")

    publish(folder, write, checkpoint_bytes(trained))


def checkpoint_bytes(trained: Trained) -> int:
    """About the size on disk: the weights, their average, and two moments of each that is trained."""
    weights = sum(tensor.nbytes for tensor in trained.module.state_dict().values())
    if trained.ema is not None:
        weights += sum(tensor.nbytes for tensor in trained.ema.towers.state_dict().values())
    if trained.has_adapters:  # the base stands beside the sum
        weights += sum(tensor.nbytes for tensor in trained.module.towers.state_dict().values())
    return weights + 2 * sum(p.nbytes for p in trained.module.parameters() if p.requires_grad)


def load_checkpoint(folder: Path, trained: Trained) -> TrainingState:
    """Fill module, average and optimizer from a verified folder, every tensor accounted for.

    Raises:
        UserError: the folder belongs to another model or optimizer.
    """
    if trained.has_adapters:  # the files of weights hold the sum of base and adapters, which cannot be taken apart
        from mmclip.towers.lora import load_adapters

        load_adapters(trained.module.towers.backbone, trained.average, folder / ADAPTER_FOLDER)
    else:
        fill(trained.judged, folder / WEIGHTS_FILE)
        if trained.ema is not None:
            fill(trained.module.towers, folder / RAW_WEIGHTS_FILE)
    _fill_heads(trained, folder)
    if (folder / OBJECTIVE_FILE).is_file():
        trained.module.objective.load_state_dict(load_file(folder / OBJECTIVE_FILE))
    _fill_optimizer(folder, trained.module, trained.optimizer)
    table = json.loads((folder / STATE_FILE).read_text())
    if trained.scaler is not None and trained.scaler.is_enabled():
        trained.scaler.load_state_dict(table["scaler"])
    progress = Progress(**table["progress"])
    return TrainingState(progress, data_fingerprint=table["data_fingerprint"], world_size=table["world_size"])


def newest_checkpoint(run: Path, on_skip: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a run whose manifest verifies; `on_skip` hears of each newer one that does not."""
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            verify(folder)
        except DamagedFolderError as error:
            on_skip(str(error))
        else:
            return folder
    return None


def remove_old(run: Path, keep: int, best: Path | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and the `best`, after the newest has been read back and verified."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    verify(folders[-1])
    for folder in folders[: -max(1, keep)]:
        if folder != best:
            shutil.rmtree(folder)


@dataclass(frozen=True)
class RunResult:
    """Which weights a run stands for, where they are not its newest."""

    folder: Path
    why: str


def record_result(run: Path, result: RunResult) -> None:
    """Let `load` of the run take these weights from now on."""
    path = run / RESULT_FILE
    temporary = path.with_name(path.name + ".tmp")
    table = {"folder": str(result.folder.relative_to(run)), "why": result.why}
    temporary.write_text(json.dumps(table, indent=1) + "\n")
    temporary.replace(path)


def result_of(run: Path) -> RunResult | None:
    """What `record_result` recorded; None where a run's newest checkpoint is its result.

    Raises:
        UserError: the file is not what was written.
    """
    path = run / RESULT_FILE
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        return RunResult(run / str(table["folder"]), str(table["why"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what mmclip writes ({error}): remove it to take the newest checkpoint"
        ) from error


def _fill_heads(trained: Trained, folder: Path) -> None:
    """The head of the average where there is one, and that of the weights themselves, which learns."""
    saved, own = load_head(folder), trained.module.towers.class_head
    if (saved is None) != (own is None) or (saved and own and saved.names != own.names):
        raise UserError(f"{folder} has another class head than this run: it belongs to another run")
    if saved is not None and trained.judged.class_head is not None:
        trained.judged.class_head.load_state_dict(saved.state_dict())
    if trained.ema is not None and own is not None:
        own.load_state_dict(load_file(folder / RAW_HEAD_FILE))


def _named_trained(module: TrainingModule, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters in the optimizer's own order, with their names, which outlive that order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [(names[p], p) for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(module: TrainingModule, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in _named_trained(module, optimizer):
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.detach().cpu().contiguous().clone()
    return tensors


def _fill_optimizer(folder: Path, module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
    tensors = load_file(folder / OPTIMIZER_FILE)
    if not tensors and json.loads((folder / STATE_FILE).read_text())["progress"]["step"] == 0:
        return  # moments come with the first step
    state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(_named_trained(module, optimizer)):
        state[index] = {key: tensors.pop(f"{key}.{name}", None) for key in ("step", "exp_avg", "exp_avg_sq")}
        first = state[index]["exp_avg"]
        if any(value is None for value in state[index].values()) or first is None or first.shape != parameter.shape:
            raise UserError(f"{folder / OPTIMIZER_FILE} has no moments that fit {name}: it belongs to another model")
        # `load_state_dict` keeps strides: moments must lie in memory as their parameter does, or the update differs.
        for key in ("exp_avg", "exp_avg_sq"):
            state[index][key] = torch.empty_like(parameter).copy_(state[index][key])
    if tensors:
        raise UserError(
            f"{folder / OPTIMIZER_FILE} has moments of unknown parameters: {', '.join(sorted(tensors)[:3])}"
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


__all__ = [
    "CheckpointConfig",
    "RunResult",
    "Trained",
    "TrainingState",
    "checkpoint_bytes",
    "checkpoint_folder",
    "load_checkpoint",
    "newest_checkpoint",
    "record_result",
    "remove_old",
    "result_of",
    "save_checkpoint",
]
