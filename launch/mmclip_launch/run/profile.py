"""A look inside a few steps: a trace for a viewer, and a table of time and FLOPs by operation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from mmclip.config import config
from mmclip.errors import UserError

FOLDER = "profile"
ROWS = 40


@config
class ProfileConfig:
    """Which steps are looked into; it slows them and changes no figure."""

    steps: int = 0
    """How many steps; 0 profiles nothing."""
    after_steps: int = 5
    """Steps of this start of the run that go by first: the first ones allocate and compile."""

    def __post_init__(self) -> None:
        for name in ("steps", "after_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"profile.{name}={getattr(self, name)}: expected 0 or more")


@contextmanager
def profiling(config: ProfileConfig, folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step; after the last profiled one, `folder`/profile holds trace and table."""
    if not config.steps:
        yield lambda: None
        return

    def written(profiler: profile) -> None:
        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(target / "trace.json"))
        averages = profiler.key_averages()
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        flops = sum(event.flops for event in averages)
        head = f"{config.steps} steps, {flops / config.steps:.3e} FLOPs of matrix products and convolutions a step\n\n"
        (target / "flops.txt").write_text(head + averages.table(sort_by=key, row_limit=ROWS) + "\n")
        say(
            f"profile of {config.steps} steps: {target / 'flops.txt'}, {target / 'trace.json'} (open it in ui.perfetto.dev)"
        )

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    when = schedule(
        wait=max(0, config.after_steps - 1), warmup=min(1, config.after_steps), active=config.steps, repeat=1
    )
    # one cycle alone; without `acc_events` torch 2.11 warns that several would be cleared
    with profile(
        activities=activities, schedule=when, on_trace_ready=written, with_flops=True, acc_events=True
    ) as profiler:
        yield profiler.step
