"""What a person sees while a command works: plain lines where output is a file, a live bar where it is a terminal."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.nn import Parameter

from mmclip.training.progress import Progress as RunProgress
from mmclip_launch.output import Output
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.pairing import objectives_of

Item = TypeVar("Item")
Show = Callable[[RunProgress, Mapping[str, float]], None]


class Screen:
    """Everything printed by a run; quiet on all ranks but the first."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        """One plain line."""
        self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        """One line that deserves a look."""
        self.console.print(f"warning: {message}", style="yellow", markup=False)

    def alarm(self, message: str) -> None:
        """One line about what goes wrong with the training itself, above the bar."""
        self.console.print(f"alarm: {message}", style="bold red", markup=False)

    def show(self, renderable: object, wrap: bool = True) -> None:
        """A table or another drawing, on standard output, where a pipe may read it."""
        if not self.console.quiet:
            Output(highlight=False).print(renderable, soft_wrap=not wrap)

    def track(self, work: Iterable[Item], total: int, name: str) -> Iterator[Item]:
        """Hand on each piece of `work`, with a bar and the time left where the output is a terminal."""
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            yield from bar.track(work, total)

    @contextmanager
    def bars(self, unit: str) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for each name that progress is reported of, with the time left; none where there is no terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            known: dict[str, TaskID] = {}

            def advance(name: str, done: int, total: int) -> None:
                if name not in known:
                    known[name] = bar.add_task(name, total=total)
                bar.update(known[name], completed=done, total=total)

            yield advance

    def plan(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        samples_per_epoch: int,
        total_steps: int,
        progress: RunProgress,
    ) -> None:
        """Say what is about to happen, in samples, steps and epochs."""
        total = total_steps * config.global_batch_size
        objectives = " + ".join(objective.type for objective in objectives_of(config))
        self.say(
            f"{config.output}: {total_steps:,} steps of {config.global_batch_size:,} = {total:,} samples = "
            f"{total / samples_per_epoch:.2f} epochs of {samples_per_epoch:,}; objective {objectives}, "
            f"{config.precision} on {accelerator.num_processes} x {accelerator.device}"
        )
        if progress.step:
            self.say(f"resuming at step {progress.step:,} ({progress.samples_seen:,} samples seen)")

    def trained(self, parameters: Iterable[Parameter]) -> None:
        """Say how many of the weights learn, where not all do."""
        weights = list(parameters)
        learn, total = (sum(w.numel() for w in weights if w.requires_grad >= least) for least in (True, False))
        if learn < total:
            self.say(f"{learn:,} of {total:,} weights learn ({100 * learn / total:.2f} %), the others rest")

    @contextmanager
    def progress(self, total_steps: int, done: int, global_batch_size: int) -> Iterator[Show]:
        """A bar with samples/s and the time left; without a terminal, a line each time a tenth is done."""
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("train", total=total_steps, completed=done, figures="")
            tenth = max(1, total_steps // 10)
            next_line = [done]

            def show(progress: RunProgress, metrics: Mapping[str, float]) -> None:
                speed = metrics["train/samples_per_second"]
                figures = f"loss {metrics['train/loss']:.3f}  {speed:,.0f} samples/s"
                bar.update(task, completed=progress.step, figures=figures)
                if not self.console.is_terminal and (progress.step >= next_line[0] or progress.step == total_steps):
                    next_line[0] = (progress.step // tenth + 1) * tenth
                    left = (total_steps - progress.step) * global_batch_size / speed
                    self.say(f"step {progress.step:,}/{total_steps:,}  {figures}  {left:.0f} s left")

            yield show
