"""From a run folder or weights to the report page: who the page is about, where it goes, and what to do if it fails."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mmclip.towers.two_tower import TwoTower
from mmclip_eval.evidence import Evidence
from mmclip_eval.report.pages.comparison_page import COMPARISON, write_comparison
from mmclip_eval.report.pages.run_page import PAGE, write_page
from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.results.record import Record, distinct
from mmclip_eval.results.result import EvalResult, ModelIdentity, record_of_content
from mmclip_launch.screen import Screen


@dataclass(frozen=True)
class Pass:
    """One evaluation of one checkpoint: its results, and what a report needs so that nothing is encoded again."""

    subject: Subject
    results: list[EvalResult]
    evidence: list[Evidence]
    results_folder: Path
    run_folder: Path | None
    """The run that the checkpoint belongs to."""


def draw(done: Pass, page: Path, screen: Screen) -> None:
    """Write the page and say where it is and how large.

    Raises:
        UserError: a file of the run is not what mmclip writes.
    """
    screen.say("drawing the report")
    size = write_page(page, done.subject, done.run_folder, done.results_folder, done.results, done.evidence)
    screen.say(f"report: {page} ({size / 1e6:.1f} MB)")


def draw_or_warn(done: Pass, page: Path, screen: Screen) -> None:
    """`draw` at the end of work that a page must not undo: what goes wrong is told, with the command that tries again."""
    try:
        draw(done, page, screen)
    except Exception as error:  # results and weights are on disk: a drawing that fails must not fail the run
        screen.warn(
            f"the report {page} could not be drawn ({type(error).__name__}: {error}); everything else is written. "
            f"`mmclip report {page.parent.parent}` tries again"
        )


def draw_all_or_warn(passes: Sequence[Pass], output: Path | None, screen: Screen) -> None:
    """The page of each checkpoint, and of several one over them all; what goes wrong is told.

    Pages lie in `report/` of `output`, else of each checkpoint's own folder, and the page over all in that of the first.
    """
    pages: list[Path] = []
    for done in passes:
        page = (output or done.results_folder.parent) / PAGE
        pages.append(page if page not in pages else page.with_name(f"{page.stem}-{len(pages)}{page.suffix}"))
        draw_or_warn(done, pages[-1], screen)
    if len(passes) > 1:
        page = (output or passes[0].results_folder.parent) / COMPARISON
        records = [record_of_content(result.to_json(), "") for done in passes for result in done.results]
        try:
            draw_comparison(records, page, screen)
        except Exception as error:  # as in draw_or_warn
            screen.warn(f"the report {page} could not be drawn ({type(error).__name__}: {error}); all else is written")


def draw_comparison(records: Sequence[Record], page: Path, screen: Screen) -> None:
    """Write the page over the checkpoints of some results, and say where it is and how large."""
    size = write_comparison(page, distinct(records).records, command_line(), machine(torch.device("cpu")))
    screen.say(f"report over all checkpoints: {page} ({size / 1e6:.1f} MB)")


def subject_of(model: TwoTower, identity: ModelIdentity, run_folder: Path | None) -> Subject:
    """The model in the words of the page."""
    image, text = parameters_of(model)
    height, width = model.spec.size
    return Subject(
        name=_name(identity.checkpoint or identity.model, run_folder),
        architecture=identity.model,
        command=command_line(),
        machine=machine(model.device),
        checkpoint=identity.checkpoint or "",
        weights_sha256=identity.weights_sha256,
        image_parameters=image,
        text_parameters=text,
        image_size=(height, width),
        embed_width=int(model.model_cfg["embed_dim"]),
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=None if model.logit_bias is None else float(model.logit_bias.detach()),
    )


def bare_subject(run_folder: Path, architecture: str, problem: str) -> Subject:
    """A run that has no checkpoint to load: its curves are all there is to show."""
    name = _name(str(run_folder), run_folder)
    return Subject(name, architecture, command_line(), machine(torch.device("cpu")), problems=(problem,))


def parameters_of(model: TwoTower) -> tuple[int, int]:
    """Parameters of the image tower and of the rest but the scale and bias, which is the text tower."""
    visual = _count(model.backbone.visual)
    scalars = sum(p.numel() for p in (model.logit_scale, model.logit_bias) if p is not None)
    return visual, _count(model.backbone) - visual - scalars


def run_of(checkpoint: str) -> Path | None:
    """The run folder that a path names or lies in, if it is one."""
    path = Path(checkpoint.removeprefix("local-dir:"))
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    return folder if (folder / "config.toml").is_file() else None


def command_line() -> str:
    """The command that this process is, as one could type it again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def machine(device: torch.device) -> str:
    """Processor, cores and device, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}, {platform.system()}"
    return f"{words}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else words


def processor() -> str:
    """The processor's name; Linux alone tells it in a file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _name(checkpoint: str, run_folder: Path | None) -> str:
    if run_folder is None:
        return checkpoint.removeprefix("open_clip:")
    return run_folder.resolve().name
