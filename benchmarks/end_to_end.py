"""From JPEG shards to trained steps: `mmclip train` beside open_clip's trainer, on the same shards, in turn.

    make bench NAME=end_to_end                                 # the figures of benchmarks/results/end_to_end.json
    .venv/bin/python benchmarks/end_to_end.py --repetitions 1 --steps 6 --warm 2 --batch 16 --output /tmp/e.json   # a look

Equal on both sides: shards (photographs of 512 x 512 pixels, JPEG q90 with grain, captions of 12 words, as img2dataset writes
them: measure/photographs.py), architecture (ViT-B/32's proportions at a quarter of its width, 224 pixels, context length 77,
so that text has the share of the work that it has there; built and initialised by open_clip's own classes), batch, fp32,
AdamW with the same hyper-parameters, warmup and clipping, one loader process, the crop (.9 to 1 of the area), steps, and a
checkpoint behind each of two stretches of the run (open_clip's epochs). Versions of torch, numpy, pillow and timm are the
same; webdataset is the peer's own.

Not equal, because it is what each trainer does: mmclip runs captions in groups of like length (exact for a causal tower) and
the last block for the pooled token alone, its update is fused, it decodes JPEG at the scale that the crop needs, its loader
hands over bytes of pixels, and by default its threads sleep while they wait and leave the loader a core. Of the flags that
open_clip's README recommends none concerns one process on CPUs, and it has no advice on threads. So there are two cases: the
threads that each trainer takes by default, and one thread for both. The second is the one to quote; the first shows what is
lost where nobody sets OMP_NUM_THREADS. Each run is checked: it took as many optimizer steps as were asked for.

The model is small so that the benchmark ends: the larger the model, the smaller is the loader's part in these figures.
`train_step.py` has the step alone at full size, `loader.py` the loader alone.

Measured by the same probe on both sides (benchmarks/measure/probe.py), which notes every optimizer step:

- samples/s, steady: from the end of step `--warm` to the end of the last step, the checkpoint in the middle included
- CPU seconds per 1,000 samples: user and system time of the trainer and its loader process, over the same steps
- seconds to the first step: from the start of the command to the end of its first optimizer step
- seconds of the whole command: from its start to its exit

Before the first pair each side runs once for a moment, unmeasured, so that neither pays for cold files.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import tomli_w
from measure.document import finish
from measure.interleave import interleave
from measure.open_clip import NAME, open_clip_python, open_clip_versions
from measure.peer import site_packages
from measure.photographs import write_shards
from measure.ratios import Row, compare

SIDE, QUALITY, SAMPLES_PER_SHARD = 512, 90, 128
ARCH_NAME = "mmclip-bench-vit"
ARCH = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 192, "layers": 3, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3},
}
LR, BETAS, EPS, DECAY, CLIP = 5e-4, (0.9, 0.98), 1e-6, 0.2, 1.0
CASES = {"default threads": {}, "one thread": {"OMP_NUM_THREADS": "1"}}
METRICS = {
    "samples/s, steady": True,
    "CPU seconds per 1,000 samples": False,
    "seconds to the first step": False,
    "seconds of the whole command": False,
}
"""Each with whether more is better."""
PROBE = Path(__file__).parent / "measure" / "probe.py"


@dataclass(frozen=True)
class Length:
    """How long a run is, for both sides."""

    steps: int
    """Optimizer steps, two equal stretches with a checkpoint behind each."""
    warm: int
    """Steps before the steady ones."""
    batch: int

    def __post_init__(self) -> None:
        if self.steps % 2 or not 1 <= self.warm < self.steps:
            raise SystemExit(f"--steps {self.steps} --warm {self.warm}: expected an even number above the warm steps")

    @property
    def epoch(self) -> int:
        """Samples of one of the two stretches, and in the shards."""
        return self.steps // 2 * self.batch


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole training runs, mmclip beside open_clip.")
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of runs of each case (default: 3)")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of a run (default: 16)")
    parser.add_argument("--warm", type=int, default=4, help="steps before the steady ones (default: 4)")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step (default: 64)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/end_to_end.json)")
    options = parser.parse_args()
    length = Length(options.steps, options.warm, options.batch)
    python = open_clip_python()
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        print("writing shards", flush=True)
        write_shards(shards_of(Path(folder)), SIDE, QUALITY, length.epoch, SAMPLES_PER_SHARD)
        run = partial(run_side, Path(folder), python)
        for side in COMMANDS:
            run(side, Length(2, 1, options.batch), {}, "unmeasured")
        for number, (case, variables) in enumerate(CASES.items()):
            sides = {side: partial(run_named, run, side, length, variables, f"case{number}") for side in COMMANDS}
            measured = interleave(sides, options.repetitions)
            for metric, more_is_better in METRICS.items():
                ours, peer = ([run[metric] for run in measured[side]] for side in ("mmclip", "open_clip"))
                rows.append(compare(case, metric, ours, peer, NAME, higher_is_better=more_is_better))
    settings = {"equal": equal(length), "pairs": options.repetitions, "steps": length.steps, "warm": length.warm}
    finish("end_to_end", rows, open_clip_versions(python), settings, options.output)


def shards_of(folder: Path) -> Path:
    """Where the shards of both sides lie."""
    return folder / "shards"


def equal(length: Length) -> dict[str, object]:
    """What both sides had alike."""
    optimizer = {"name": "AdamW", "lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": DECAY, "clip": CLIP}
    pictures = {"pictures": f"JPEG q{QUALITY}, {SIDE} x {SIDE}", "samples": length.epoch}
    return {**pictures, "model_cfg": ARCH, "batch": length.batch, "precision": "fp32", "workers": 1, **optimizer}


def run_named(
    run: Callable[..., dict[str, float]], side: str, length: Length, variables: dict[str, str], case: str, number: int
) -> dict[str, float]:
    """One measured run, with a line on the terminal."""
    figures = run(side, length, variables, f"{case}-{number}")
    print(f"{case}, pair {number + 1}, {side}: {figures['samples/s, steady']:.1f} samples/s", flush=True)
    return figures


def run_side(
    folder: Path, peer: Path, side: str, length: Length, variables: dict[str, str], name: str
) -> dict[str, float]:
    """Run one side's trainer under the probe and return its figures.

    Raises:
        RuntimeError: the trainer failed, or took another number of optimizer steps than it was asked for.
    """
    notes_path, log = folder / f"{side}-{name}.json", folder / f"{side}-{name}.log"
    interpreter, module, arguments = COMMANDS[side](folder, peer, length, f"{side}-{name}")
    command = [interpreter, "-P", str(PROBE), str(notes_path), module, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    with log.open("w") as output:
        started = time.monotonic()
        done = subprocess.run(command, env=environment, cwd=folder, stdout=output, stderr=output, check=False)
        ended = time.monotonic()
    if done.returncode or not notes_path.is_file():
        raise RuntimeError(f"{side} ended with code {done.returncode}:\n{log.read_text()[-3000:]}")
    notes = json.loads(notes_path.read_text())
    if len(notes) != length.steps:
        raise RuntimeError(
            f"{side} took {len(notes)} optimizer steps, expected {length.steps}:\n{log.read_text()[-3000:]}"
        )
    return figures_of(notes, length, started, ended)


def figures_of(notes: list[list[float]], length: Length, started: float, ended: float) -> dict[str, float]:
    """The metrics of one run from the probe's notes."""
    (warm_at, warm_cpu), (last_at, last_cpu) = notes[length.warm - 1], notes[-1]
    samples = (len(notes) - length.warm) * length.batch
    values = (
        samples / (last_at - warm_at),
        (last_cpu - warm_cpu) * 1000 / samples,
        notes[0][0] - started,
        ended - started,
    )
    return dict(zip(METRICS, values, strict=True))


def our_command(folder: Path, peer: Path, length: Length, name: str) -> tuple[str, str, list[str]]:
    """The trainer of mmclip: interpreter, module and arguments."""
    config = {
        "output": str(folder / name),
        "global_batch_size": length.batch,
        "precision": "fp32",
        "length": {"steps": length.steps},
        "data": {"source": {"type": "tars", "shards": str(shards_of(folder))}, "workers": 1},
        "model": {"inline": ARCH},
        "optimizer": {
            "lr": LR,
            "beta1": BETAS[0],
            "beta2": BETAS[1],
            "eps": EPS,
            "weight_decay": DECAY,
            "max_grad_norm": CLIP,
        },
        "schedule": {"warmup_samples": length.warm * length.batch},
        "checkpoint": {"every_steps": length.steps // 2},
    }
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(config))
    return sys.executable, "mmclip_launch.train", [str(path)]


def peer_command(folder: Path, peer: Path, length: Length, name: str) -> tuple[str, str, list[str]]:
    """The trainer of open_clip; the architecture goes where its `--model` looks for names."""
    (site_packages(peer) / "open_clip" / "model_configs" / f"{ARCH_NAME}.json").write_text(json.dumps(ARCH))
    flags = {
        "train-data": "::".join(map(str, sorted(shards_of(folder).glob("*.tar")))),
        "train-num-samples": length.epoch,
        "dataset-type": "webdataset",
        "model": ARCH_NAME,
        "batch-size": length.batch,
        "epochs": 2,
        "workers": 1,
        "precision": "fp32",
        "lr": LR,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "eps": EPS,
        "wd": DECAY,
        "grad-clip-norm": CLIP,
        "warmup": length.warm,
        "log-every-n-steps": 10,
        "logs": folder,
        "name": name,
    }
    return (
        str(peer),
        "open_clip_train.main",
        [word for flag, value in flags.items() for word in (f"--{flag}", str(value))],
    )


COMMANDS = {"mmclip": our_command, "open_clip": peer_command}


if __name__ == "__main__":
    main()
