"""`mmclip doctor`: what this machine has, what is wrong with it, and how to mend it.

    mmclip doctor
    mmclip doctor --json

Exit code 0 without problems (notes are none), 1 with at least one: something that stops training, leaves a device
unused, or could not be examined. The network is not touched.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.text import Text

from mmclip_launch.doctor.accelerators import cuda, mps
from mmclip_launch.doctor.backends import bf16_on_cpu, kernels, matrix_library
from mmclip_launch.doctor.conflicts import (
    broken_requirements,
    double_installations,
    import_names,
    picture_formats,
    torchvision_operators,
)
from mmclip_launch.doctor.disk import disk
from mmclip_launch.doctor.finding import Finding, Probe, examine
from mmclip_launch.doctor.limits import open_files, shared_memory
from mmclip_launch.doctor.packages import versions
from mmclip_launch.doctor.processor import cores, memory
from mmclip_launch.doctor.speed import speed
from mmclip_launch.flags import Arguments
from mmclip_launch.lines import output_width, wrapped
from mmclip_launch.output import Output

SECTIONS: dict[str, tuple[Probe, ...]] = {
    "versions": (versions,),
    "machine": (cores, memory),
    "limits": (shared_memory, open_files, disk),
    # From here on torch is imported, which takes seconds: what needs no torch is on the screen by then.
    "packages that must fit together": (
        broken_requirements,
        import_names,
        double_installations,
        picture_formats,
        torchvision_operators,
    ),
    "devices": (cuda, mps),
    "backends": (matrix_library, bf16_on_cpu, kernels),
    "speed of matrix products": (speed,),
}
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
NAME_WIDTH = 18


def main(arguments: Sequence[str]) -> None:
    """Examine, print, and end with code 1 if there is a problem."""
    parser = Arguments(
        prog="mmclip doctor",
        description="What this machine has, what is wrong with it, and how to mend it. Takes a few seconds.",
        epilog="Exit codes: 0 no problem, 1 something stops training, leaves a device unused or could not be examined.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object in place of lines")
    options = parser.parse_args(arguments)
    states = _report_json(SECTIONS) if options.json else _report_lines(SECTIONS)
    if states["problem"]:
        sys.exit(1)


def examine_all(sections: dict[str, tuple[Probe, ...]]) -> Iterator[tuple[str, Finding]]:
    """Section and finding, each as soon as it is known."""
    for section, probes in sections.items():
        for probe in probes:
            yield from ((section, finding) for finding in examine(probe))


def _report_json(sections: dict[str, tuple[Probe, ...]]) -> Counter[str]:
    found = list(examine_all(sections))
    states = Counter(finding.state for _, finding in found)
    lines = [{"section": section, **asdict(finding)} for section, finding in found]
    print(json.dumps({"problems": states["problem"], "notes": states["note"], "findings": lines}, indent=2))
    return Counter(states)


def _report_lines(sections: dict[str, tuple[Probe, ...]]) -> Counter[str]:
    console = Output(highlight=False, soft_wrap=True)
    states: Counter[str] = Counter()
    shown = ""
    for section, finding in examine_all(sections):
        if section != shown:
            shown = section
            console.print(Text(f"\n{section}", style="bold"))
        for line in finding_lines(finding, output_width(console)):
            console.print(line)
        states[finding.state] += 1
    console.print(Text("\n" + summary(states), style=STYLES["problem" if states["problem"] else "ok"]))
    return states


def finding_lines(finding: Finding, width: int | None) -> list[Text]:
    """State, name and value, wrapped under each other; the fix on a line of its own, in a pipe behind the value."""
    lead = f"{finding.state:8} {finding.name:{NAME_WIDTH}} "
    if width is None:
        return [Text(lead + finding.value + (f"; fix: {finding.fix}" if finding.fix else ""))]
    lines = wrapped(lead, finding.value, width)
    lines += wrapped(" " * len(lead) + "-> ", finding.fix, width) if finding.fix else []
    texts = [Text(line) for line in lines]
    texts[0].stylize(STYLES[finding.state], 0, len(finding.state))
    return texts


def summary(states: Counter[str]) -> str:
    """The last line."""
    problems, notes = (
        f"{states[state]} {state}{'' if states[state] == 1 else 's'}" if states[state] else f"no {state}s"
        for state in ("problem", "note")
    )
    return f"{problems}, {notes}"
