"""What can be known before step 0 is refused before step 0: in seconds, before a tower is built or a folder claimed.

Cheap checks come first, and none imports open_clip, which takes longer than all of them together.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmclip.errors import MachineError, UserError
from mmclip.release import source_folder
from mmclip.tokenizer import Tokenizer
from mmclip.towers.architecture import ModelConfig, check_arch, check_model_cfg
from mmclip.towers.tensors import refuse_cut_weights
from mmclip.towers.weights import CONFIG_FILE, WEIGHTS_FILE, read_config
from mmclip.training.checkpoint.folders import newest_checkpoint, step_of
from mmclip.training.checkpoint.lease import living_holder
from mmclip.training.resolution import parts_of
from mmclip_data.loading.census import refuse_small, refuse_unusable
from mmclip_data.loading.chosen import PartOfSource
from mmclip_data.loading.mixture import order_of
from mmclip_data.loading.opening import open_source
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.stream_loader import refuse_resume, refuse_unusable_stream
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset, open_dataset
from mmclip_launch.faults import free_bytes
from mmclip_launch.mirror.fetch import fetch_newer
from mmclip_launch.mirror.place import Place
from mmclip_launch.run.beginning.folder import CONFIG, refuse_changes
from mmclip_launch.run.beginning.fork import FORKED_FROM, Fork, find_fork, unfinished_fork
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.peers import refuse_too_few_devices, world_size
from mmclip_launch.run.recipe.chosen import choose_samples
from mmclip_launch.run.records.trackers import check_installed

SMALLEST_RUN_BYTES = 1 << 20
"""Room that any run needs for its configuration and lines of metrics, before its first checkpoint."""


@dataclass(frozen=True)
class Checked:
    """What the checks found out that the start needs."""

    is_new: bool
    """Whether the run folder is still to be claimed."""
    step: int
    """Of the checkpoint to continue from; -1 without one."""
    datasets: Sequence[OpenedDataset]
    fork: Fork | None = None
    """Whose checkpoint is still to be copied."""


def preflight(
    config: RunConfig, resume: bool, warn: Callable[[str], None], source_of_fork: Path | None = None
) -> Checked:
    """Check everything that is on this machine, once for all ranks.

    Raises:
        UserError: something named in the configuration is missing, contradicts another, or cannot be used.
        OSError: the run folder cannot be written.
    """
    check_installed(config.trackers)
    check_devices(config.device)
    folder = Path(config.output)
    _meet_mirror(config, folder, resume, warn)
    is_new = _is_new(config, folder, resume)
    fork = find_fork(source_of_fork, config, warn) if is_new and source_of_fork else unfinished_fork(folder)
    refuse_unwritable(folder)
    Layout(config.global_batch_size, 0, world_size())
    _check_model(config.model)
    if config.objective.type == "distill":
        _check_teacher(config.objective.teacher)
    if config.resume_open_clip is not None and not Path(config.resume_open_clip).is_file():
        raise UserError(f"resume_open_clip={config.resume_open_clip!r}: no such file; expected open_clip's epoch_N.pt")
    steps = config.length.total_steps(config.global_batch_size, _check_data(config, warn))
    if fork is not None and fork.step >= steps:
        raise UserError(
            f"--fork: {fork.checkpoint} has {fork.step:,} steps behind it, and this run has {steps:,} in all: lengthen it "
            "(length counts from the beginning of the first run)"
        )
    config.schedule.warmup(steps * config.global_batch_size)
    parts_of(config.resolution, (0, 0), steps, config.global_batch_size)  # the model's own size is not known yet
    _refuse_unknown_set(config)
    datasets = open_datasets(config.measured_sets)
    step = fork.step if fork else -1 if is_new else _newest_step(folder, warn)
    if isinstance(config.data.source, StreamingConfig):
        refuse_resume(config.data.source, max(0, step) * config.global_batch_size)
    return Checked(is_new, step, datasets, fork)


def _check_teacher(source: str) -> None:
    if not source:
        raise UserError(
            "objective.teacher is empty: expected a source of weights, as model.init takes (--objective.teacher)"
        )
    source_folder(source)


def _refuse_unknown_set(config: RunConfig) -> None:
    metric, names = config.early_stopping.metric, [one.name for one in config.measured_sets]
    if metric is not None and metric.partition("/")[0] not in names:
        raise UserError(
            f"early_stopping.metric={metric!r}: no evaluation set is named {metric.partition('/')[0]!r}; there are: "
            f"{', '.join(names) or 'none'}"
        )


def _check_data(config: RunConfig, warn: Callable[[str], None]) -> int:
    """Open the training data, read the first samples of each source, and count; the samples of an epoch are returned."""
    if isinstance(config.data.source, StreamingConfig):
        refuse_unusable_stream(config.data.source, config.data.caption_fields, world_size())
        return config.data.source.samples
    opened = open_source(config.data.source, config.data.caption_fields)
    for line in refuse_unusable(opened, config.data.max_bad_fraction):
        warn(line)
    chosen = choose_samples(config.data)
    opened = opened if chosen is None else replace(opened, source=PartOfSource(opened.source, chosen))
    order = order_of(opened.source, config.data.plan, config.seed)
    refuse_small(opened, order, config.global_batch_size)
    return order.samples_per_epoch


def open_datasets(
    datasets: Sequence[EvalDatasetConfig], suite: Sequence[EvalDatasetConfig] | None = None
) -> list[OpenedDataset]:
    """Open and check every evaluation set, all before a model is loaded.

    `suite` holds those that a task may name as related ones, where they are more than `datasets`.

    Raises:
        UserError: two share a name, or one is unsound.
    """
    names = [settings.name for settings in datasets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"evaluation: {names.count(name)} data sets are named {name!r}, and results are filed by name: "
                "give each its own (--dataset NAME=PATH)"
            )
    opened: list[OpenedDataset] = []
    for settings in datasets:
        try:
            opened.append(open_dataset(settings, datasets if suite is None else suite))
        except UserError as error:
            raise UserError(f"evaluation data set {settings.name!r}: {error}") from error
        opened[-1].close()
    return opened


def refuse_equal_prompts(datasets: Sequence[OpenedDataset], tokenizer: Tokenizer) -> None:
    """Refuse prompts that are one text for every class once they are tokens: cut before the name, or of other case alone.

    Raises:
        UserError: naming the data set, a template and the context length.
    """
    for opened in datasets:
        dataset = opened.dataset
        if not any("prompts" in task.needs for task in opened.tasks):
            continue
        texts = dataset.prompts
        different = list({names: index for index, names in enumerate(texts.classes)}.values())
        first = tokenizer(texts[different[0]])
        if len(different) > 1 and all(torch.equal(first, tokenizer(texts[index])) for index in different[1:]):
            where = f"{dataset.config.name}: all {len(different)} classes give the same tokens:"
            lower = {tuple(text.lower() for text in texts[index]) for index in different}
            if len(lower) == 1:
                raise UserError(
                    f"{where} {texts[different[0]][0]!r} and {texts[different[1]][0]!r} differ in case alone, which the "
                    "model's tokenizer does not keep; give names that differ otherwise (class_names)"
                )
            raise UserError(
                f"{where} the text {texts[different[0]][0]!r} is cut at the model's context_length="
                f"{tokenizer.context_length} before the class name; give a shorter template, or a model with a longer context"
            )


def check_devices(device: str) -> None:
    """Refuse a device that is not there, and more processes than devices.

    Raises:
        UserError: naming what there is.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        refuse_too_few_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), count)
        return
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device {device!r}: expected cpu, cuda, cuda:N or mps") from error
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if str(wanted) not in there:
        raise UserError(f"device {device!r} is not on this machine: expected one of {', '.join(there)}")


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be made or filled.

    Raises:
        UserError: a file stands in its way.
        OSError: the disk is read-only or full, or this user may not write there.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if "$" in str(folder) and not folder.exists():
        raise UserError(
            f"output={str(folder)!r}: nothing is put in place of a $NAME in a run file: write the path out, or give it on the "
            'command line, where the shell does (--output "$NAME/...")'
        )
    if not there.is_dir():
        raise UserError(
            f"output={str(folder)!r}: {there} is a file: expected a folder, or a path where none stands yet"
        )
    if not os.access(there, os.W_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(there))
    if free_bytes(there) < SMALLEST_RUN_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(there))


def refuse_small_disk(folder: Path, checkpoint_bytes: int, keep: int, warn: Callable[[str], None]) -> None:
    """Refuse a disk without room for one checkpoint; warn of one without room for as many as are kept.

    Raises:
        MachineError: naming the path, what is needed and what is free.
    """
    free = free_bytes(folder)
    if free < checkpoint_bytes:
        raise MachineError(
            f"{folder}: a checkpoint of this model needs about {checkpoint_bytes:,} bytes, and {free:,} are free: "
            "free some room, or give --output on another disk"
        )
    if free < (keep + 1) * checkpoint_bytes:
        warn(
            f"{folder}: {free:,} bytes are free, and checkpoint.keep={keep} takes up to "
            f"{(keep + 1) * checkpoint_bytes:,} (one more while it is written)"
        )


def _meet_mirror(config: RunConfig, folder: Path, resume: bool, warn: Callable[[str], None]) -> None:
    """Bring what is newer than the disk has; a new run finds nothing there.

    Raises:
        UserError: another run has the URL.
        StoreError: the store does not answer.
    """
    if config.mirror.url is None:
        return
    place = Place(config.mirror.url)
    if resume:
        fetch_newer(place, folder, warn)
    elif place.holders():
        raise UserError(
            f"mirror.url={config.mirror.url}: a run is there already: continue it with --resume, or give another URL"
        )


def _is_new(config: RunConfig, folder: Path, resume: bool) -> bool:
    has_config, has_checkpoints = (folder / CONFIG).exists(), (folder / "checkpoints").exists()
    if not resume and (has_config or has_checkpoints):
        raise UserError(
            f"{folder} already holds a run: continue it with --resume, give another --output, or remove the folder"
        )
    if not resume:
        return True
    if has_config:
        refuse_changes(config, folder)
        holder = living_holder(folder)
        if holder is not None:
            raise UserError(
                f"--resume: {folder} is being trained right now, by {holder}: let it end, or end it first; two trainers would "
                "undo each other's work"
            )
        return False
    found = sorted({entry.name for entry in folder.iterdir()} - {FORKED_FROM}) if folder.is_dir() else []
    if found:
        raise UserError(
            f"--resume: {folder} holds no run: expected {CONFIG} in it, got {', '.join(found[:4])}"
            f"{' ...' if len(found) > 4 else ''}; give the run's own folder as --output, or leave --resume out"
        )
    return True  # the first start of a job that always says --resume, as a scheduler's does


def _newest_step(folder: Path, warn: Callable[[str], None]) -> int:
    skipped: list[str] = []
    newest = newest_checkpoint(folder, skipped.append)
    if newest is None and skipped:
        raise UserError(
            f"--resume: none of the {len(skipped)} checkpoints of {folder} is whole: {skipped[0]}. To begin again at "
            "step 0, give another --output"
        )
    for reason in skipped:
        warn(reason)
    return step_of(newest) if newest else -1


def _check_model(config: ModelConfig) -> None:
    if config.inline is not None:
        check_model_cfg(config.inline, "model.inline")
    elif config.init is None:
        check_arch(config.arch)
    elif (folder := source_folder(config.init)) is not None and (folder / CONFIG_FILE).is_file():
        check_model_cfg(read_config(folder)["model_cfg"], f"{folder}: model_cfg")
        refuse_cut_weights(folder / WEIGHTS_FILE)
