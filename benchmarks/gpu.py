"""mmclip on a CUDA device, beside the device's own ceilings and beside open_clip in the same process, in under ten minutes.

    make bench NAME=gpu                                             # benchmarks/results/gpu.json
    .venv/bin/python benchmarks/gpu.py --sections steps,loss        # some of it
    .venv/bin/python benchmarks/gpu.py --device cpu --tiny --output /tmp/gpu.json     # each line of it, at toy size, anywhere

Sections, each in a process of its own that ends when its time is up (device/plan.py); what it has found by then counts:

- `ceilings`: matrix products in bf16, TF32 and fp32, copies on the device and to it
- `steps`, `compiled_*`: whole optimizer steps of ViT-B/32, B/16 and L/14 in bf16 autocast, batches on the device: `TrainStep`
  beside `train_one_epoch` of open_clip's trainer; compiled by blocks beside its `--torchcompile`; compiling is timed apart
- `text_groups`: the text tower alone, by number of groups
- `loss`: forward and backward of the loss from 8k to 128k pairs, time and peak memory
- `end_to_end`: JPEG shards to steps, loaders included
- `large_batch`: exact accumulation

Equal on both sides of a row: device, process, model, weights, precision, AdamW's settings, clipping, batch (captions by the law
of measure/captions.py), and in `end_to_end` shards and number of loader processes. Time is that between CUDA events after
unmeasured rounds, A B A B; `end_to_end` takes the host's clock. `rows` have both sides, `figures` one, `absent` says what was
not measured and why. Where a row of the 77-token figures says nominal, padding counts as work: divide by the ceiling for the
nominal share of the peak, never mix it with a useful one.
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measure.document import finish
from measure.ratios import Row

MOST_SECONDS = 590
NO_DEVICE = (
    "benchmarks/gpu.py measures a CUDA device, and torch sees none here; for a test of its lines: --device cpu --tiny"
)


def main() -> int:
    parser = argparse.ArgumentParser(description="mmclip on a CUDA device, beside open_clip.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only with --tiny")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: a test of the benchmark, not a figure")
    parser.add_argument("--sections", help="names, with commas between them (default: all)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/gpu.json)")
    parser.add_argument("--child", nargs=2, metavar=("SECTION", "NOTES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu" and not options.tiny or options.device == "cuda" and not torch.cuda.is_available():
        print(NO_DEVICE, file=sys.stderr)
        return 2
    if options.child:
        return run_section(options.child[0], Path(options.child[1]), options)
    return run_all(options)


def run_section(name: str, notes: Path, options: argparse.Namespace) -> int:
    """In this process, which was started for it."""
    import device.plan as plan
    from device.notes import Notes
    from device.scale import FULL, TINY

    (section,) = (section for section in plan.SECTIONS if section.name == name)
    section.run(Notes(notes), TINY if options.tiny else FULL, torch.device(options.device))
    return 0


def run_all(options: argparse.Namespace) -> int:
    """One section after the other, and what they found."""
    import device.plan as plan

    known = {section.name: section for section in plan.SECTIONS}
    names = list(known) if options.sections is None else options.sections.split(",")
    if unknown := [name for name in names if name not in known]:
        print(f"--sections {','.join(unknown)}: expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    ends, found = time.monotonic() + MOST_SECONDS, {"rows": [], "figures": [], "absent": []}
    with TemporaryDirectory() as folder:
        for name in names:
            notes = supervise(known[name], Path(folder) / name, options, ends - time.monotonic())
            for kind, lines in notes.items():
                found[kind] += lines
    settings = {"device": describe(options.device), "tiny": options.tiny, "sections": names, "absent": found["absent"]}
    rows = [Row(**row) for row in found["rows"]]
    versions = {"peer open_clip_torch": version("open_clip_torch"), **packages()}
    finish("gpu", rows, versions, settings, options.output, figures=found["figures"])
    return 0


def supervise(section: Any, notes: Path, options: argparse.Namespace, left: float) -> dict[str, list[Any]]:
    """What a section noted before its end, by itself or because its time was up."""
    from device.notes import read

    allowed = min(section.seconds, left)
    print(f"{section.name}: at most {max(0, allowed):.0f} s", flush=True)
    command = [sys.executable, __file__, "--device", options.device, *(["--tiny"] if options.tiny else [])]
    reason = None
    try:
        done = subprocess.run([*command, "--child", section.name, str(notes)], timeout=max(1, allowed), check=False)
        reason = f"ended with code {done.returncode}: see its message above" if done.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"cut off after {allowed:.0f} s"
    found = read(notes)
    if reason is not None:
        print(f"  {section.name}: {reason}", flush=True)
        found["absent"].append({"case": section.name, "reason": reason})
    return found


def describe(device: str) -> dict[str, Any]:
    """The device."""
    if device == "cpu":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def packages() -> dict[str, str]:
    """Versions of what else decides the figures, where it is installed."""
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in ("triton", "webdataset", "simplejpeg"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
