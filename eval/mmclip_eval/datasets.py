"""What is measured on what: an evaluation set with its tasks, opened and checked before anything is encoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_eval.eval_dataset import EvalDataset, SetConfig
from mmclip_eval.held_out import only_held_out
from mmclip_eval.sources.opening import open_source
from mmclip_eval.tasks.base import EvalTask, Related
from mmclip_eval.tasks.registry import TaskConfig, own_task


@config
class EvalDatasetConfig(SetConfig):
    """One evaluation set, and what to measure on it."""

    tasks: tuple[TaskConfig, ...] = ()
    """All from one pass over the pictures, each a name or a table with `type` and options; empty: as the set itself says."""


@dataclass(frozen=True)
class Measured:
    """A task of a set, with the other sets that it reads by their role."""

    task: EvalTask
    related: Mapping[str, EvalDataset]


@dataclass(frozen=True)
class OpenedDataset:
    """A set that was opened and checked, with all that is to be measured on it."""

    dataset: EvalDataset
    measured: tuple[Measured, ...]

    @property
    def tasks(self) -> tuple[EvalTask, ...]:
        """What is measured."""
        return tuple(measured.task for measured in self.measured)

    def close(self) -> None:
        """Close the files of all sets."""
        for dataset in (self.dataset, *(other for one in self.measured for other in one.related.values())):
            dataset.samples.close()


def open_dataset(settings: EvalDatasetConfig, suite: Sequence[SetConfig] = ()) -> OpenedDataset:
    """Index the samples, read what the tasks need of every sample, and check all of it before anything is encoded.

    `suite` holds the sets that a task may name as related ones.

    Raises:
        UserError: something declared is missing or contradicts the samples; names the file or the sample.
    """
    dataset = open_samples(settings)
    tasks: Sequence[EvalTask] = settings.tasks or (own_task(dataset),)
    if settings.group is not None:
        dataset.read(("groups",))
    for task in tasks:  # all of them first: a sample that lacks what one needs may be left out of all
        dataset.read(task.needs)
    return OpenedDataset(dataset, tuple(_measured(task, dataset, suite) for task in dict.fromkeys(tasks)))


def open_samples(settings: SetConfig) -> EvalDataset:
    """Index the samples of a set; of what is known of them nothing is read yet.

    Raises:
        UserError: there are none, or what is declared is not what is there.
        StoreError: a store does not answer.
    """
    opened = open_source(settings)
    if not settings.held_out.share:
        return EvalDataset(settings, opened.samples, opened.declared)
    whole = EvalDataset(replace(settings, held_out=HeldOutConfig()), opened.samples, opened.declared)
    # The number that is declared of the whole says nothing of a part.
    declared = replace(opened.declared, num_samples=None)
    some = replace(settings, num_samples=None)
    return EvalDataset(some, only_held_out(opened.samples, settings.held_out), declared, whole)


def _measured(task: EvalTask, dataset: EvalDataset, suite: Sequence[SetConfig]) -> Measured:
    wanted = task.related(dataset.config, {settings.name: settings for settings in suite})
    related = {role: _open_related(other, dataset) for role, other in wanted.items()}
    task.check(dataset, related)
    return Measured(task, related)


def _open_related(other: Related, dataset: EvalDataset) -> EvalDataset:
    settings = other.settings
    if other.same_classes and dataset.labelled.is_named:
        settings = replace(settings, class_names=dataset.labelled.classes)
    try:
        opened = open_samples(settings)
        opened.read(other.needs)
    except UserError as error:
        raise UserError(f"{dataset.config.name} reads {settings.path}, split {settings.split}: {error}") from error
    return opened
