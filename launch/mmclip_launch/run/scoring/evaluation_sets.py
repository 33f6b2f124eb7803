"""`Sets`: what is to be measured, from the flags of a command: which sets, and which of their tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset
from mmclip_eval.tasks.registry import read_task
from mmclip_launch.run.beginning.preflight import open_datasets
from mmclip_launch.run.scoring.suite_files import read_suite


@dataclass
class Sets:
    """Evaluation sets, opened once however many checkpoints they are for."""

    settings: Sequence[EvalDatasetConfig]
    tasks: tuple[str, ...] = ()
    """The only ones to measure; empty: what each set says."""
    say: Callable[[str], object] = print
    _opened: list[OpenedDataset] | None = field(default=None, init=False)

    @classmethod
    def of_flags(
        cls,
        given: Sequence[EvalDatasetConfig],
        suites: Sequence[Path],
        tasks: Sequence[str],
        say: Callable[[str], object],
    ) -> "Sets":
        """Of `--dataset`, `--suite` and `--task`; a set that was named by its path alone gets the tasks.

        Raises:
            UserError: a suite cannot be read, or there is no such task.
        """
        for task in tasks:
            try:
                read_task(task, dict)
            except UserError as error:
                raise UserError(str(error).replace("tasks:", "--task:", 1)) from error
        named = [replace(one, tasks=tuple(tasks)) for one in given]
        return cls([*named, *(one for file in suites for one in read_suite(file))], tuple(tasks), say)

    def with_own(self, settings: Sequence[EvalDatasetConfig]) -> "Sets":
        """The sets of a run, where none were named."""
        return Sets(settings, self.tasks, self.say)

    def opened(self) -> list[OpenedDataset]:
        """The sets with the tasks that are to be measured; those without any are left out, and named.

        Raises:
            UserError: a set is unsound, or none has one of the tasks.
        """
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> list[OpenedDataset]:
        if not self.tasks:
            return open_datasets(self.settings)
        kept = [replace(one, tasks=self._chosen(one)) for one in self.settings if not one.tasks or self._chosen(one)]
        opened = [self._with_tasks(one) for one in open_datasets(kept, self.settings)]
        found = [one for one in opened if one.measured]
        left_out = {one.name for one in self.settings} - {one.dataset.config.name for one in found}
        if not found and self.settings:
            raise UserError(f"--task {' '.join(self.tasks)}: none of the sets has it: {', '.join(sorted(left_out))}")
        if left_out:
            self.say(f"left out, for want of --task {' '.join(self.tasks)}: {', '.join(sorted(left_out))}")
        return found

    def _chosen(self, settings: EvalDatasetConfig) -> tuple:
        return tuple(task for task in settings.tasks if task.type in self.tasks)

    def _with_tasks(self, opened: OpenedDataset) -> OpenedDataset:
        return replace(opened, measured=tuple(one for one in opened.measured if one.task.type in self.tasks))
