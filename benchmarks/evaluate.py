"""Five evaluations of one model: `mmclip eval` of a suite, once, beside CLIP_benchmark's command, five times.

    make bench NAME=evaluate                                                       # benchmarks/results/evaluate.json
    .venv/bin/python benchmarks/evaluate.py --quick --output /tmp/evaluate.json    # a look, some minutes

A labelled set of JPEGs under four prompt sets (OpenAI's 80 ImageNet templates, their 7 best, CIFAR's 18, and one), and a
captioned set, five captions a picture, under retrieval. CLIP_benchmark's user runs a command for each prompt set and one
for retrieval, which is the only way there; each starts an interpreter, loads the model and encodes the pictures.

Equal on both sides: files, weights (a ViT of random weights, drawn wider than for training so that embeddings differ),
fp32 (`--no_amp`: CLIP_benchmark's default on a CPU is bf16, whose figures could not be compared), batch of 64, versions of
torch, pillow and open_clip. Not equal, because it is what each does: mmclip encodes each picture and each text once,
captions in groups of like length, and adds intervals and hashes; CLIP_benchmark has four loader processes.

Checked in each pair: every figure of the peer stands in ours to 1e-4. Checked once: the peer's `build` reads our files.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from measure.clip_benchmark import NAME, clip_benchmark_python, clip_benchmark_versions
from measure.document import finish
from measure.interleave import interleave
from measure.labelled_photographs import CAPTIONS_EACH, write_captioned, write_labelled
from measure.peer import ROOT
from measure.ratios import compare
from safetensors.torch import save_file

from mmclip_eval.prompts.reading import load_prompts

MODEL = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 384, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 10},
}
"""ViT-S-32-alt of open_clip."""
RUN = """
output = "never-trained"
global_batch_size = 1
length = { steps = 1 }
[data]
source = { type = "tars", shards = "embedded:emoji/train-noto.tar" }
[model]
arch = "ViT-S-32-alt"
"""
"""What a run file needs beside the sets that it is evaluated on."""
SPREAD = 3.0
"""Weights this many times wider than at the start of a training: scores lie apart, and no rounding changes a rank."""
PROMPTS = ("imagenet1k", "imagenet1k_7", "cifar10", "simple")
CLASSES = (
    "street",
    "cat",
    "coffee",
    "rocket",
    "motorcycle",
    "eye",
    "flower",
    "temple",
    "dog",
    "bridge",
    "boat",
    "tree",
)
SIDE, QUALITY = 256, 90
RECALL_AT = (1, 5, 10)
TOLERANCE = 1e-4
METRICS = ("wall seconds", "CPU seconds")


@dataclass(frozen=True)
class Size:
    """Samples of the two sets."""

    labelled: int
    captioned: int


FULL, QUICK = Size(1000, 300), Size(240, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description="Five evaluations, mmclip beside CLIP_benchmark.")
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of measurements (default: 3)")
    parser.add_argument("--quick", action="store_true", help="few samples, one pair: a look, not a figure")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/evaluate.json)")
    options = parser.parse_args()
    python = clip_benchmark_python()
    size, repetitions = (QUICK, 1) if options.quick else (FULL, options.repetitions)
    with TemporaryDirectory() as name:
        work = Work(Path(name), python)
        work.prepare(size)
        sides = {"mmclip": work.ours, "peer": work.peer}
        measured = interleave({side: partial(timed, side, run) for side, run in sides.items()}, repetitions)
        difference = work.check(repetitions)
    columns = {side: list(zip(*measured[side], strict=True)) for side in sides}
    rows = [
        compare("five_runs", metric, columns["mmclip"][number], columns["peer"][number], NAME, higher_is_better=False)
        for number, metric in enumerate(METRICS)
    ]
    equal = {
        "labelled": size.labelled,
        "captioned": size.captioned,
        "captions_each": CAPTIONS_EACH,
        "picture": f"{SIDE} px JPEG",
        "classes": len(CLASSES),
        "prompt_sets": list(PROMPTS),
        "model": "ViT-S-32-alt, random weights",
        "precision": "fp32",
    }
    settings = {"equal": equal, "largest_difference_of_a_figure": difference, "pairs": repetitions}
    finish("evaluate", rows, clip_benchmark_versions(python), settings, options.output)


@dataclass(frozen=True)
class Work:
    """The folder of both sides' inputs and outputs."""

    folder: Path
    python: Path

    def prepare(self, size: Size) -> None:
        """Sets, model, prompts and our suite."""
        print("writing sets and model", flush=True)
        write_labelled(self.folder / "labelled", CLASSES, size.labelled, SIDE, QUALITY)
        write_captioned(self.folder / "captioned", size.captioned, SIDE, QUALITY)
        write_model(self.folder / "model")
        for name in PROMPTS:
            templates = list(load_prompts(name, where="benchmark").templates)
            (self.folder / f"{name}.json").write_text(json.dumps({"labelled": templates}))
        (self.folder / "model" / "config.toml").write_text(RUN + suite(self.folder))

    def ours(self, repetition: int) -> None:
        """One command, for the sets that the model's own run file names."""
        code = "import sys; from mmclip_launch.cli import main; sys.argv[0] = 'mmclip'; main()"
        arguments = ["eval", str(self.folder / "model"), "--no-report", "--device", "cpu"]
        # Its own cache each time: the pictures are encoded in each repetition.
        cache = {"MMCLIP_CACHE": str(self.folder / f"cache-{repetition}")}
        run([sys.executable, "-c", code, *arguments, "--output", str(self.output("ours", repetition))], cache)

    def peer(self, repetition: int) -> None:
        """Five commands."""
        output = self.output("peer", repetition)
        output.mkdir()
        model = ["--model", f"local-dir:{self.folder / 'model'}", "--pretrained", "none", "--no_amp", "--quiet"]
        for name in PROMPTS:
            data = ["--dataset", "wds/labelled", "--dataset_root", str(self.folder / "labelled")]
            prompts = ["--task", "zeroshot_classification", "--custom_template_file", str(self.folder / f"{name}.json")]
            self.clip_benchmark("eval", *model, *data, *prompts, "--output", str(output / f"{name}.json"))
        data = ["--dataset", "wds/captioned", "--dataset_root", str(self.folder / "captioned")]
        recall = ["--task", "zeroshot_retrieval", "--recall_k", *map(str, RECALL_AT)]
        self.clip_benchmark("eval", *model, *data, *recall, "--output", str(output / "retrieval.json"))

    def clip_benchmark(self, *arguments: str) -> None:
        """The peer's command."""
        run([str(self.python.parent / "clip_benchmark"), *arguments])

    def output(self, side: str, repetition: int) -> Path:
        return self.folder / f"{side}-{repetition}"

    def check(self, repetitions: int) -> float:
        """The largest difference of a figure.

        Raises:
            RuntimeError: a figure differs by more than the tolerance, or the peer's `build` lost one of our files.
        """
        largest = 0.0
        ours = [figures_of(self.output("ours", repetition), by_prompts=True) for repetition in range(repetitions)]
        for repetition, found in enumerate(ours):
            peer = figures_of(self.output("peer", repetition), by_prompts=False)
            largest = max(largest, largest_difference(found, peer))
        table = self.folder / "benchmark.csv"
        self.clip_benchmark("build", str(self.output("ours", 0)), "--output", str(table))
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        read = sorted(float(row["acc1"]) for row in rows if row["acc1"])
        written = sorted(found["acc1"] for found in ours[0].values() if "acc1" in found)
        if len(rows) != 1 + len(PROMPTS) or read != written:
            raise RuntimeError(f"clip_benchmark build: {len(rows)} rows with acc1 {read}, expected {written}")
        return largest


def write_model(folder: Path) -> None:
    """An open_clip folder that both sides load."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**MODEL)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embedding" not in name:
                weight *= SPREAD
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    side = MODEL["vision_cfg"]["image_size"]
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}))


def suite(folder: Path) -> str:
    """Ours, in one file: a pass over the pictures serves all four prompt sets."""
    sets = [("labelled", f"labelled_{name}", f'templates = "{name}"\n') for name in PROMPTS]
    return "\n".join(
        f'[[evaluation.datasets]]\nname = "{name}"\npath = "{folder / place}"\n{prompts}'
        for place, name, prompts in [*sets, ("captioned", "captioned", "")]
    )


def figures_of(folder: Path, by_prompts: bool) -> dict[str, Mapping[str, float]]:
    """Metrics by prompt set, or `retrieval`."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        name = path.stem if not by_prompts else content["dataset"].removeprefix("labelled_")
        found["retrieval" if content["task"] == "zeroshot_retrieval" else name] = content["metrics"]
    return found


def largest_difference(ours: Mapping[str, Mapping[str, float]], peer: Mapping[str, Mapping[str, float]]) -> float:
    """Over every figure of the peer.

    Raises:
        RuntimeError: one is missing or differs by more than the tolerance.
    """
    if set(peer) != {*PROMPTS, "retrieval"}:
        raise RuntimeError(f"the peer wrote {sorted(peer)}")
    largest = 0.0
    for case, metrics in peer.items():
        for name, value in metrics.items():
            difference = abs(ours[case][name] - value)
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{case}, {name}: {ours[case][name]} is not {value}")
            largest = max(largest, difference)
    return largest


def timed(side: str, run_side: Callable[[int], None], repetition: int) -> tuple[float, float]:
    """Seconds on the clock, and CPU seconds of all processes that it started."""
    cpu, wall = _children(), time.perf_counter()
    run_side(repetition)
    found = time.perf_counter() - wall, _children() - cpu
    print(f"  {side}, {repetition + 1}: {found[0]:.1f} s, {found[1]:.1f} CPU s", flush=True)
    return found


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """A command that must end well.

    Raises:
        RuntimeError: it did not; with the end of what it said.
    """
    packages = [str(ROOT / folder) for folder in (".", "data_pipelines", "eval", "launch")]
    path = os.pathsep.join(packages) if command[0] == sys.executable else ""
    known = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **(environment or {})}
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]} failed:\n{(done.stdout + done.stderr)[-3000:]}")


if __name__ == "__main__":
    main()
